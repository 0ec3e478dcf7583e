//! Doors for `fuzz/`: each takes bytes that mean nothing, and panics where something does not hold.
//!
//! Run by `cargo xtask fuzz`, in a network that leads nowhere: what the policy allows is truly dialed.

mod documents;
mod guest;
mod hello;
mod names;
mod packet;
mod play;
mod requests;
mod script;
mod services;
#[cfg(test)]
mod tests;

use tokio::runtime::{Builder, Runtime};

/// A guest that plays a script of packets to a whole gateway.
pub fn frames(bytes: &[u8]) {
    wait_for(play::play(bytes));
}

/// The first bytes of a connection, as the gateway and as rustls read them.
pub fn client_hello(bytes: &[u8]) {
    hello::read(bytes);
}

/// Questions to the name server.
pub fn dns(bytes: &[u8]) {
    names::ask(bytes);
}

/// What a guest and a server say to the proxy for HTTP.
pub fn http_head(bytes: &[u8]) {
    requests::pass(bytes);
}

/// A policy's document, in both of its forms.
pub fn policy_document(bytes: &[u8]) {
    documents::read(bytes);
}

thread_local! {
    /// Its clock stands still but when it is moved, or when everybody waits.
    static RUNTIME: Runtime = {
        assert!(is_alone(), "a network is there; use `cargo xtask fuzz`");
        Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .expect("a runtime")
    };
}

/// Whether this process is in a network of its own, which leads nowhere.
fn is_alone() -> bool {
    let links = std::fs::read_to_string("/proc/self/net/dev").unwrap_or_default();
    let mut names = links
        .lines()
        .skip(2)
        .filter_map(|line| line.split(':').next());
    names.all(|name| name.trim() == "lo")
}

fn wait_for<T>(future: impl Future<Output = T>) -> T {
    RUNTIME.with(|runtime| runtime.block_on(future))
}
