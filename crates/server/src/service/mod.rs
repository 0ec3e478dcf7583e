//! Everything that callers can have done, whatever way they come: limits, permissions, and the way from a request to
//! the engine and back to the records.
//!
//! HTTP and MCP are above this folder; they only translate.

mod authorization;
mod checkpoints;
mod metrics;
mod retention;
pub(crate) mod runs;
mod sandboxes;
#[expect(
    clippy::module_inception,
    reason = "the folder is named after its central type"
)]
mod service;

pub use service::{Service, Settings};
