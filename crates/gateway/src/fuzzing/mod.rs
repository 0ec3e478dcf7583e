//! Entry points for `fuzz/`. Each takes arbitrary bytes, and panics if an invariant is violated.
//!
//! `cargo xtask fuzz` runs them in a network namespace without a network, because destinations that the policy allows
//! are really dialed.

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
