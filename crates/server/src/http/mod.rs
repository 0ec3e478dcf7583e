//! The API over HTTP: routes, authentication, content negotiation, streams, and the listeners.
//!
//! A handler parses a request, calls the service once and formats the response. Limits and permissions belong in
//! `service`.

mod connections;
mod extract;
mod file_content;
mod files;
mod idempotency;
mod listeners;
mod middleware;
mod negotiation;
mod openapi;
mod routes;
mod runs;
mod sandboxes;
mod sse;
mod system;
#[cfg(test)]
mod tests;

pub use listeners::{ListenError, Listeners, default_socket};
pub use middleware::Transport;
pub use routes::{app, openapi};
