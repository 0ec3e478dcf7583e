//! The conformance suite against this agent, over TCP on this machine.
#![allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "a test fails by panicking"
)]

mod agent;
mod golden;
mod models;
mod suite;

#[path = "../start/listening.rs"]
mod listening;
