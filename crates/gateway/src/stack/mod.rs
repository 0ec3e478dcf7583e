//! A userspace TCP/IP stack that accepts packets for any address: each connection of the guest becomes a stream.
//!
//! Every frame is checked before the stack parses it. Only TCP, and DNS queries to the gateway, get in; other packets
//! are rejected and reported. The stack decides on no destination: it reports each connection as an [`Arrival`], and the
//! connection waits until it is accepted or dropped.

mod driver;
#[cfg(feature = "fuzzing")]
mod probe;
mod guest_stream;
mod network_stack;
mod classify;
mod arp_ndp;
mod icmp_prohibited;
mod stale_connection;
mod four_tuple;
mod device;
mod frame;

pub(crate) use classify::{DNS_PORT, RejectedPacket};
pub(crate) use driver::drive;
pub(crate) use four_tuple::FourTuple;
pub(crate) use network_stack::{Arrival, GuestStream, Stack};
