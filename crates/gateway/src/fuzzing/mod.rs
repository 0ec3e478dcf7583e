//! Doors for `fuzz/`: each takes bytes that mean nothing, and panics where something does not hold.
//!
//! Run by `cargo xtask fuzz`, in a network that leads nowhere: what the policy allows is truly dialed.

mod hello_bytes;
mod documents;
mod guest;
mod names;
mod packet;
mod play;
mod requests;
mod runtime;
mod script;
mod services;
mod targets;

#[cfg(test)]
mod tests;

pub use targets::{client_hello, dns, frames, http_head, policy_document};
