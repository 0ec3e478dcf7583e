//! The Model Context Protocol: what agents call. One set of tools, over standard input and output for one user, and
//! over HTTP behind the same keys as the rest.

mod answer;
mod asked;
mod files;
mod progress;
mod tools;

use std::sync::Arc;

use rmcp::ServiceExt;
use rmcp::transport::streamable_http_server::session::local::LocalSessionManager;
use rmcp::transport::{StreamableHttpServerConfig, StreamableHttpService};

use crate::Service;
use crate::owner::Owner;
use tools::Tools;

/// The most of one call, in bytes: what a file written by it may have, as base64.
const CALL_BYTES: usize = 8 * 1024 * 1024;

/// The service for HTTP. The layer before it has put the [`Owner`] into each request, and checked its host.
pub(crate) fn http(service: &Service) -> StreamableHttpService<Tools, LocalSessionManager> {
    let config = StreamableHttpServerConfig::default()
        .disable_allowed_hosts()
        .enforce_origin_validation()
        .with_max_request_body_bytes(CALL_BYTES)
        .with_cancellation_token(service.0.parting.clone());
    let service = service.clone();
    let make = move || Ok(Tools::new(service.clone(), None));
    StreamableHttpService::new(make, Arc::default(), config)
}

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
