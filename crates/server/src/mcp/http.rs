//! MCP over HTTP: owners, limits and lost clients, around the service of the MCP library.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderMap, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, any};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use hyper::body::{Frame, SizeHint};
use rmcp::transport::common::http_header::{HEADER_LAST_EVENT_ID, HEADER_SESSION_ID};
use rmcp::transport::streamable_http_server::session::local::LocalSessionManager;
use rmcp::transport::{StreamableHttpServerConfig, StreamableHttpService};

use super::sessions::{ResponseGuard, ResultCharge, SessionRegistry};
use super::tools::Tools;
use crate::error::{ApiError, ApiErrorKind};
use crate::owner::Owner;
use crate::service::Service;
use crate::state::memory_budget::Quota;

/// The largest call, in bytes, which bounds a file that a call writes as base64.
pub(super) const MAX_CALL_BYTES: usize = 8 * 1024 * 1024;

/// How long a session without messages is kept beyond the longest run. A call without messages takes up to 900 s for
/// packages before its code runs, and its response needs the session; the rest is for starting and ending a VM on a busy
/// host.
const SESSION_KEEP_ALIVE: Duration = Duration::from_secs(1200);

/// How long the result of a call is kept for a client whose connection broke. It reconnects at once.
const RESULT_TTL: Duration = Duration::from_secs(10);

/// A function that reads a whole body of at most this many bytes, which count for this quota.
pub(crate) type BodyReader = fn(Body, usize, Quota) -> BoxFuture<'static, Result<Bytes, ApiError>>;

/// Returns the route of MCP. The layer around it must have checked the host and added the [`Owner`] to each request.
pub(crate) fn route(service: &Service, read_body: BodyReader) -> MethodRouter {
    let config = StreamableHttpServerConfig::default()
        .disable_allowed_hosts()
        .enforce_origin_validation()
        .with_max_request_body_bytes(MAX_CALL_BYTES)
        .with_cancellation_token(service.0.shutdown_token.clone());

    let mut manager = LocalSessionManager::default();
    let longest_run = Duration::from_secs(service.0.settings.max_timeout_s);
    manager.session_config.completed_cache_ttl = RESULT_TTL;
    manager.session_config.keep_alive = Some(SESSION_KEEP_ALIVE + longest_run);
    let manager = Arc::new(manager);

    let tools = Tools::new(service.clone(), None);
    let make_tools = move || Ok(tools.clone());
    let mcp = Mcp {
        service: service.clone(),
        registry: Arc::new(SessionRegistry::new(manager.clone())),
        inner: StreamableHttpService::new(make_tools, manager, config),
        read_body,
    };

    any(move |request| respond(mcp.clone(), request))
}

#[derive(Clone)]
struct Mcp {
    inner: StreamableHttpService<Tools, LocalSessionManager>,
    service: Service,
    registry: Arc<SessionRegistry>,
    read_body: BodyReader,
}

async fn respond(mcp: Mcp, request: Request) -> Response {
    match mcp.handle(request).await {
        Ok(response) => response,
        Err(error) => error.into_response(),
    }
}

impl Mcp {
    async fn handle(&self, request: Request) -> Result<Response, ApiError> {
        let (mut parts, body) = request.into_parts();
        let owner = parts.extensions.get::<Owner>().cloned();
        let missing = || ApiError::new(ApiErrorKind::Unauthorized, "missing API key");
        let owner = owner.ok_or_else(missing)?;

        let quota = self.service.quota(&owner);
        let id = header_text(&parts.headers, HEADER_SESSION_ID);

        let session = match &id {
            Some(id) => self.registry.find(id, &owner)?,
            None => None,
        };

        let body = (self.read_body)(body, MAX_CALL_BYTES, quota.clone()).await?;

        // The event id of a call contains that of the call; the stream of the session itself belongs to no call.
        let last_event = header_text(&parts.headers, HEADER_LAST_EVENT_ID);
        let is_resumed =
            parts.method == Method::GET && last_event.is_some_and(|last| last.contains('/'));
        let (guard, client_gone) = ResponseGuard::new(session, is_resumed);
        parts.extensions.insert(client_gone);
        let charge = ResultCharge::default();
        parts.extensions.insert(charge.clone());

        let ended = id.clone().filter(|_| parts.method == Method::DELETE);
        let request = Request::from_parts(parts, Body::from(body));

        let response = if id.is_some() {
            self.inner.handle(request).await.map(Body::new)
        } else {
            self.clone().start_session(request, owner).await?
        };

        if let Some(id) = ended
            && response.status().is_success()
        {
            self.registry.remove(&id);
            // The library answers 202, which clients report as a failure to end the session.
            return Ok(StatusCode::NO_CONTENT.into_response());
        }

        Ok(response.map(|body| {
            Body::new(GuardedBody {
                body,
                guard,
                charge,
            })
        }))
    }

    /// Answers a request outside of a session, which may start one.
    async fn start_session(self, request: Request, owner: Owner) -> Result<Response, ApiError> {
        // The task runs to its end even if the client disconnects: otherwise a session could remain unregistered.
        let task = tokio::spawn(async move {
            let response = self.inner.handle(request).await.map(Body::new);
            if let Some(id) = header_text(response.headers(), HEADER_SESSION_ID) {
                self.registry.register(&id, owner).await?;
            }
            Ok(response)
        });

        task.await
            .unwrap_or_else(|error| Err(ApiError::internal(&error)))
    }
}

fn header_text(headers: &HeaderMap, name: &str) -> Option<String> {
    let value = headers.get(name)?.to_str().ok()?;
    Some(value.to_owned())
}

/// A response body with its guard. Both are dropped when the response is complete or the client disconnects.
struct GuardedBody {
    body: Body,
    #[expect(dead_code, reason = "its drop has the effect")]
    guard: ResponseGuard,
    charge: ResultCharge,
}

impl hyper::body::Body for GuardedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        // The connection may hold the bytes for longer than this body exists.
        let frame = Pin::new(&mut self.body).poll_frame(context);
        frame.map_ok(|frame| frame.map_data(|bytes| self.charge.attach(bytes)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
