//! The Model Context Protocol (MCP): tools that agents call, over standard input and output for the local user, or over
//! HTTP with the same API keys as the rest.
//!
//! A tool translates its parameters and results; the work itself belongs in `service`.

mod files;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
mod http;
mod params;
mod progress;
mod results;
mod sessions;
#[cfg(test)]
mod tests;
mod tools;

use rmcp::ServiceExt;

use crate::owner::Owner;
use crate::service::Service;
pub(crate) use http::route;
use tools::Tools;

/// Serves one client over standard input and output until it disconnects; then ends everything that it started.
///
/// # Errors
/// If the handshake fails, or the connection breaks.
pub async fn stdio(service: &Service) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let tools = Tools::new(service.clone(), Some(Owner::local()));
    let running = tools.serve(rmcp::transport::stdio()).await?;
    running.waiting().await?;
    service.drain().await;
    Ok(())
}
