//! How a guest learns that something is refused: a page for HTTP, an alert for TLS, and then a clean close.
//!
//! What is refused, and the words for it, come from the callers.

mod reason;
mod reply;

pub(crate) use reason::{DENIED_HEADER, Refusal};
pub(crate) use reply::{Alert, refuse_http, refuse_tls};
