//! The connection to one guest's agent: lines and raw frames over a socket, many bounded operations at once.
//!
//! Everything that an agent sends is checked here before other code sees it. VMs, sandboxes and requests of callers do
//! not belong here.

mod channel;
mod handshake;
mod operation;
mod reader;
mod routes;
mod writer;

pub(crate) use channel::{Channel, FEATURES};
pub(crate) use handshake::{GuestInit, hand_over, new_refresh, resume_with_refresh, say_hello};
pub(crate) use operation::{InputSender, Operation, ReceivedStreams};
pub(crate) use routes::{
    ChannelError, FRAME_BYTES, KEPT_WINDOW_BYTES, OperationEvent, WINDOW_BYTES,
};
