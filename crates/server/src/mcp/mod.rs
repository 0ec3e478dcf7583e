//! The Model Context Protocol: what agents call. One set of tools, over standard input and output for one user, and
//! over HTTP behind the same keys as the rest.

mod answer;
mod asked;
mod progress;
mod tools;

use std::sync::Arc;

use fumehood_engine::policy::Document;
use rmcp::ServiceExt;
use rmcp::transport::streamable_http_server::session::local::LocalSessionManager;
use rmcp::transport::{StreamableHttpServerConfig, StreamableHttpService};
use tokio_util::sync::CancellationToken;

use crate::Service;
use crate::owner::Owner;
use tools::Tools;

/// The most of one call, in bytes: what a file written by it may have, as base64.
const CALL_BYTES: usize = 8 * 1024 * 1024;

/// The service for HTTP. The layer before it has put the [`Owner`] into each request, and checked its host.
pub(crate) fn http(
    service: &Service,
    network: Option<Arc<Document>>,
    end: CancellationToken,
) -> StreamableHttpService<Tools, LocalSessionManager> {
    let config = StreamableHttpServerConfig::default()
        .disable_allowed_hosts()
        .enforce_origin_validation()
        .with_max_request_body_bytes(CALL_BYTES)
        .with_cancellation_token(end);
    let service = service.clone();
    let make = move || Ok(Tools::new(service.clone(), None, network.clone()));
    StreamableHttpService::new(make, Arc::default(), config)
}

/// Serves one client over standard input and output, until it goes away.
///
/// # Errors
/// The conversation could not be begun, or broke.
pub async fn stdio(
    service: &Service,
    network: Option<Document>,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let tools = Tools::new(service.clone(), Some(Owner::local()), network.map(Arc::new));
    let running = tools.serve(rmcp::transport::stdio()).await?;
    running.waiting().await?;
    Ok(())
}
