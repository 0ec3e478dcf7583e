//! The state in memory: runs with their events and output, sandboxes, checkpoints and metrics.
//!
//! These types know neither the service nor the database; `service` connects them. What outlives the process belongs in
//! `storage`.

pub(crate) mod checkpoints;
pub(crate) mod event_log;
pub(crate) mod held_output;
pub(crate) mod memory_budget;
pub(crate) mod metrics;
mod output_chunks;
pub(crate) mod revocations;
pub(crate) mod run_output;
pub(crate) mod run_task;
pub(crate) mod runs;
pub(crate) mod sandbox;
