//! How a guest learns that something is refused: a page for HTTP, an alert for TLS, and then a clean close.
//!
//! The callers decide about refusals and provide the text.

mod reason;
mod reply;

pub(crate) use reason::{DENIED_HEADER, Refusal};
pub(crate) use reply::{Alert, refuse_http, refuse_tls};
