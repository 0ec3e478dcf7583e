//! Helpers for the tests of several folders: a guest without a VM, and a TLS client.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod guest;
mod tls_client;

pub(crate) use guest::{Guest, LINK};
pub(crate) use tls_client::tls_client;
