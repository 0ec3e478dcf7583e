//! The protocol over HTTP: what rmcp leaves open around its service.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderMap, Method};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, any};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use hyper::body::{Frame, SizeHint};
use rmcp::transport::common::http_header::{HEADER_LAST_EVENT_ID, HEADER_SESSION_ID};
use rmcp::transport::streamable_http_server::session::local::LocalSessionManager;
use rmcp::transport::{StreamableHttpServerConfig, StreamableHttpService};

use super::sessions::{ResponseGuard, SessionRegistry};
use super::tools::Tools;
use crate::Service;
use crate::error::{ApiError, ApiErrorKind};
use crate::owner::Owner;

/// The most of one call, in bytes: what a file written by it may have, as base64.
pub(super) const MAX_CALL_BYTES: usize = 8 * 1024 * 1024;

/// How long a session is kept in which nothing is said: a call that says nothing takes up to 900 s for packages and
/// 300 s for its code, and its answer needs the session; the rest is for starting and ending a VM on a busy host.
const SESSION_KEEP_ALIVE: Duration = Duration::from_secs(1500);

/// What reads the whole of a body, of this many bytes at most.
pub(crate) type BodyReader = fn(Body, usize) -> BoxFuture<'static, Result<Bytes, ApiError>>;

/// The service. The layer before it has put the [`Owner`] into each request, and checked its host.
pub(crate) fn route(service: &Service, read_body: BodyReader) -> MethodRouter {
    let config = StreamableHttpServerConfig::default()
        .disable_allowed_hosts()
        .enforce_origin_validation()
        .with_max_request_body_bytes(MAX_CALL_BYTES)
        .with_cancellation_token(service.0.shutdown_token.clone());
    let mut manager = LocalSessionManager::default();
    manager.session_config.keep_alive = Some(SESSION_KEEP_ALIVE);
    let manager = Arc::new(manager);
    let tools = Tools::new(service.clone(), None);
    let make = move || Ok(tools.clone());
    let mcp = Mcp {
        registry: Arc::new(SessionRegistry::new(manager.clone())),
        inner: StreamableHttpService::new(make, manager, config),
        read_body,
    };
    any(move |request| answer(mcp.clone(), request))
}

#[derive(Clone)]
struct Mcp {
    inner: StreamableHttpService<Tools, LocalSessionManager>,
    registry: Arc<SessionRegistry>,
    read_body: BodyReader,
}

async fn answer(mcp: Mcp, request: Request) -> Response {
    match mcp.answer(request).await {
        Ok(response) => response,
        Err(error) => error.into_response(),
    }
}

impl Mcp {
    async fn answer(&self, request: Request) -> Result<Response, ApiError> {
        let (mut parts, body) = request.into_parts();
        let owner = parts.extensions.get::<Owner>().cloned();
        let owner =
            owner.ok_or_else(|| ApiError::new(ApiErrorKind::Unauthorized, "this needs a key"))?;
        let id = header_text(&parts.headers, HEADER_SESSION_ID);
        let session = match &id {
            Some(id) => self.registry.find(id, &owner)?,
            None => None,
        };
        let body = (self.read_body)(body, MAX_CALL_BYTES).await?;
        // The event's id of a call has the call's in it; the session's own stream is no call's.
        let is_resumed = parts.method == Method::GET
            && header_text(&parts.headers, HEADER_LAST_EVENT_ID)
                .is_some_and(|last| last.contains('/'));
        let (guard, client_gone) = ResponseGuard::new(session, is_resumed);
        let ends = id.clone().filter(|_| parts.method == Method::DELETE);
        parts.extensions.insert(client_gone);
        let request = Request::from_parts(parts, Body::from(body));
        let response = if id.is_some() {
            self.inner.handle(request).await.map(Body::new)
        } else {
            self.clone().start_session(request, owner).await?
        };
        if let Some(id) = ends
            && response.status().is_success()
        {
            self.registry.forget(&id);
        }
        Ok(response.map(|body| Body::new(GuardedBody { body, guard })))
    }

    /// The answer to a request outside of a session, which may begin one.
    async fn start_session(self, request: Request, owner: Owner) -> Result<Response, ApiError> {
        // A task of its own: a client that goes away in the middle leaves no session that nobody knows of.
        let answered = tokio::spawn(async move {
            let response = self.inner.handle(request).await.map(Body::new);
            if let Some(id) = header_text(response.headers(), HEADER_SESSION_ID) {
                self.registry.register(&id, owner).await?;
            }
            Ok(response)
        });
        answered
            .await
            .unwrap_or_else(|error| Err(ApiError::internal(&error)))
    }
}

fn header_text(headers: &HeaderMap, name: &str) -> Option<String> {
    let value = headers.get(name)?.to_str().ok()?;
    Some(value.to_owned())
}

/// A body that lets its listener know when it is dropped: sent to its end, or because the client has gone.
struct GuardedBody {
    body: Body,
    #[expect(dead_code, reason = "it is there to be dropped")]
    guard: ResponseGuard,
}

impl hyper::body::Body for GuardedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
