//! The runtime of the targets.

use tokio::runtime::{Builder, Runtime};

thread_local! {
    /// A runtime whose clock moves only when it is advanced, or when all tasks wait.
    static RUNTIME: Runtime = {
        assert!(is_isolated(), "there is a network; use `cargo xtask fuzz`");
        Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .expect("a runtime")
    };
}

/// Returns whether this process is in a network namespace with only a loopback interface.
fn is_isolated() -> bool {
    let links = std::fs::read_to_string("/proc/self/net/dev").unwrap_or_default();
    let mut names = links
        .lines()
        .skip(2)
        .filter_map(|line| line.split(':').next());
    names.all(|name| name.trim() == "lo")
}

pub(super) fn wait_for<T>(future: impl Future<Output = T>) -> T {
    RUNTIME.with(|runtime| runtime.block_on(future))
}
