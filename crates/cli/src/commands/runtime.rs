//! The asynchronous runtime of commands that use VMs.

use anyhow::Context;
use rustix::process::Signal;
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};

/// Starts a runtime.
///
/// # Errors
/// Its threads cannot be started, or this process may have too few descriptors.
pub(super) fn start_runtime() -> anyhow::Result<Runtime> {
    // The runtime itself panics if it has too few descriptors.
    fumehood_engine::check_descriptor_limit()?;

    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start the async runtime")?;

    // By default, a file that grows beyond `ulimit -f` ends the process without a message. With a handler it is an error
    // like that of a full disk.
    let inside = runtime.enter();
    let handler = signal(SignalKind::from_raw(Signal::XFSZ.as_raw()));
    drop(handler.context("cannot handle SIGXFSZ")?);
    drop(inside);

    Ok(runtime)
}
