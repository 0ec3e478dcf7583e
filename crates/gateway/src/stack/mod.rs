//! A TCP/IP stack that takes every address for its own: what a guest connects to is a stream here.

mod arp_ndp;
mod classify;
mod device;
mod driver;
mod four_tuple;
mod frame;
mod guest_stream;
mod icmp_prohibited;
mod network_stack;
#[cfg(feature = "fuzzing")]
mod probe;
mod stale_connection;

pub(crate) use classify::{DNS_PORT, Refused};
pub(crate) use driver::drive;
pub(crate) use four_tuple::Tuple;
pub(crate) use network_stack::{Arrival, GuestStream, Stack};
