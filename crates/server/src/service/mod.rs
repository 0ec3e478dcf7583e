//! Everything that callers can do, whichever way they come: limits, permissions, idempotency, and the way from a request
//! to the engine and back to the records.
//!
//! HTTP and MCP stand above this folder and only translate; they do not belong here.

mod authorization;
mod checkpoints;
mod idle;
mod metrics;
mod operator;
mod pausing;
mod recovery;
mod retention;
mod revocation;
mod runs;
mod sandboxes;
mod service;
mod shutdown;
mod state_quota;

pub(crate) use runs::MAX_LIST_ITEMS;
pub use service::{Service, Settings};
