//! The Model Context Protocol: what agents call. One set of tools, over standard input and output for one user, and
//! over HTTP behind the same keys as the rest.

mod http;
mod params;
mod files;
mod results;
mod sessions;
mod progress;
mod tools;

use rmcp::ServiceExt;

use crate::Service;
use crate::owner::Owner;
pub(crate) use http::http;
use tools::Tools;

/// Serves one client over standard input and output, until it goes away; ends what it had begun.
///
/// # Errors
/// The conversation could not be begun, or broke.
pub async fn stdio(service: &Service) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let tools = Tools::new(service.clone(), Some(Owner::local()));
    let running = tools.serve(rmcp::transport::stdio()).await?;
    running.waiting().await?;
    service.drain().await;
    Ok(())
}

#[cfg(test)]
mod tests;
