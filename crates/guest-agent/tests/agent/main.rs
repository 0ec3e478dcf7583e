//! The real agent on this machine, over TCP: its answers, and the failures that it survives.

#![allow(missing_docs, unreachable_pub, clippy::unwrap_used)]

mod files;
mod interpreters;
mod operations;
mod protocol;
mod support;

#[path = "../start/listening.rs"]
mod listening;
