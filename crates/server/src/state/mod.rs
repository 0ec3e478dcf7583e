//! What the server holds in memory: runs with their events and output, sandboxes, checkpoints and metrics.
//!
//! These types know no service and no database; `service` connects them.

pub(crate) mod checkpoints;
pub(crate) mod event_log;
pub(crate) mod metrics;
mod output_chunks;
pub(crate) mod run_task;
pub(crate) mod runs;
pub(crate) mod sandbox_handle;
