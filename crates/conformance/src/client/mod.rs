//! A client of the protocol that trusts nothing: connections, messages, what an operation has sent, and the record of
//! both. The requirements of the protocol do not belong here, except for the rules that hold for every response.

mod address;
mod checksum;
mod connection;
mod fault;
mod message;
mod monitor;
mod outcome;
mod shapes;
mod socket;
mod tracker;
mod transcript;

pub use address::{Address, AddressError};
pub(crate) use checksum::crc32c;
pub(crate) use connection::{Connection, Link};
pub(crate) use fault::{Check, Fault, ensure, fail, not_offered};
pub(crate) use message::Message;
pub(crate) use monitor::Monitor;
pub(crate) use outcome::Outcome;
pub(crate) use transcript::Transcript;
