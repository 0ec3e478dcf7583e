//! The asynchronous runtime of commands that use VMs.

use anyhow::Context;
use tokio::runtime::Runtime;

/// Starts a runtime.
///
/// # Errors
/// Its threads cannot be started, or this process may have too few descriptors.
pub(super) fn start_runtime() -> anyhow::Result<Runtime> {
    // The runtime itself panics if it has too few descriptors.
    fumehood_engine::check_descriptor_limit()?;

    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start the async runtime")
}
