//! The conversation with one guest's agent: lines and raw frames over a socket, many bounded operations at once.
//!
//! Everything that an agent sends is checked here before other code sees it. VMs, sandboxes and requests of callers do
//! not belong here.

mod channel;
mod handshake;
mod reader;
mod writer;

pub(crate) use channel::{
    Arrived, Channel, ChannelError, FEATURES, FRAME_BYTES, InputLine, KEPT_WINDOW_BYTES, Operation,
    OperationEvent, WINDOW_BYTES,
};
pub(crate) use handshake::{Brought, fresh, greet, renew};
