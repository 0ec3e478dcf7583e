//! What a guest reads that is refused: a page for HTTP, an alert for TLS, and then a clean end.

mod reason;
mod reply;

pub(crate) use reason::{DENIED, Refusal};
pub(crate) use reply::{Alert, refuse_http, refuse_tls};
