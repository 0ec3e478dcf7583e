//! The asynchronous runtime of commands that use VMs.

use anyhow::Context;
use tokio::runtime::Runtime;

/// Starts a runtime.
///
/// # Errors
/// Its threads cannot be started.
pub(super) fn start_runtime() -> anyhow::Result<Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start the async runtime")
}
