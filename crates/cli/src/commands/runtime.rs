use anyhow::Context;
use tokio::runtime::Runtime;

/// The runtime of a command that talks to VMs.
pub(super) fn runtime() -> anyhow::Result<Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("no runtime could be started")
}
