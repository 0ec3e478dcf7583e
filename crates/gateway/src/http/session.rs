//! The requests of one connection: each is checked, decided on, sent and answered.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::HeaderValue;
use hyper::upgrade::OnUpgrade;
use hyper::{Method, Request, Response, StatusCode, Version};
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWriteExt as _;
use tokio::time::Instant;

use super::body::{RequestBody, ResponseBody};
use super::exchange::{Exchange, RequestObserver};
use super::idle_timer::IdleTimer;
use super::proxy::{Proxy, RequestFilter, Scheme};
use super::target::Target;
use super::upgrade::Splice;
use super::upstream::{SendError, Upstream};
use super::{headers, page, upgrade};
use crate::refusal::Refusal;
use crate::secret::{Redactor, SecretMatcher, Secrets};
use crate::stream::UpstreamError;

/// The guest's connection is closed without an answer.
#[derive(Debug, thiserror::Error)]
#[error("the server closed the connection")]
pub(super) struct Aborted;

/// State that all requests of a connection share.
pub(super) struct Session {
    scheme: Scheme,
    /// The one host of this connection, once it is known.
    host: OnceLock<String>,
    filter: Arc<dyn RequestFilter>,
    observer: Arc<dyn RequestObserver>,
    secrets: Arc<Secrets>,
    answer_timeout: Duration,
    timer: Arc<IdleTimer>,
    upstream: tokio::sync::Mutex<Upstream>,
    /// The guest's side of an upgrade that it requested.
    requested_upgrade: Mutex<Option<OnUpgrade>>,
    splice: Mutex<Option<Splice>>,
}

impl Session {
    pub(super) fn new(proxy: Proxy, timer: Arc<IdleTimer>) -> Self {
        Self {
            host: match &proxy.scheme {
                Scheme::Plain => OnceLock::new(),
                Scheme::Tls(host) => OnceLock::from(host.clone()),
            },
            scheme: proxy.scheme,
            filter: proxy.filter,
            observer: proxy.observer,
            secrets: proxy.secrets,
            answer_timeout: proxy.answer_timeout,
            timer,
            upstream: tokio::sync::Mutex::new(Upstream::new(proxy.connect)),
            requested_upgrade: Mutex::default(),
            splice: Mutex::default(),
        }
    }

    /// Returns both sides of the connection, if the last request upgraded it.
    pub(super) fn take_splice(&self) -> Option<Splice> {
        let mut splice = self.splice.lock().unwrap_or_else(PoisonError::into_inner);
        splice.take()
    }

    /// Closes a connection whose upgrade was declined. hyper leaves it open, and without this the guest would lose the
    /// last answer.
    pub(super) async fn close_declined_upgrade(&self) -> io::Result<()> {
        let requested = self.requested_upgrade().take();
        match requested {
            Some(guest) => match guest.await {
                Ok(guest) => TokioIo::new(guest).shutdown().await,
                // The connection is closed already.
                Err(_) => Ok(()),
            },
            None => Ok(()),
        }
    }

    fn requested_upgrade(&self) -> MutexGuard<'_, Option<OnUpgrade>> {
        self.requested_upgrade
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Answers one request.
    pub(super) async fn answer(
        self: Arc<Self>,
        mut request: Request<Incoming>,
    ) -> Result<Response<ResponseBody>, Aborted> {
        if let Some(guest) = request.extensions_mut().remove::<OnUpgrade>() {
            *self.requested_upgrade() = Some(guest);
        }

        let target = Target::of(&request, &self.scheme);
        let host = target.as_ref().map_or("", |target| &target.host);
        let method = request.method().as_str();
        let exchange = Exchange::start(method, host, &self.timer, &self.observer);

        let prepared = target
            .and_then(|target| self.check(target, &request, &exchange))
            .and_then(|target| self.prepare_request(request, &target, &exchange));
        match prepared {
            Ok((request, reply)) => self.forward(request, reply, exchange).await,
            Err(refusal) => Ok(page::denied(&refusal, exchange)),
        }
    }

    /// Decides on a request, and binds the connection to its host.
    fn check(
        &self,
        target: Target,
        request: &Request<Incoming>,
        exchange: &Exchange,
    ) -> Result<Target, Refusal> {
        if let Some(host) = self.host.get().filter(|host| **host != target.host) {
            let text = format!(
                "This connection is for {host}, but the request is for {}. Open another connection for it.",
                target.host
            );
            return Err(Refusal::new("host_changed", text));
        }

        // Some servers take the method from a header, so that one must be allowed as well.
        let upgrades = upgrade::is_websocket(request.headers(), request.body());
        for method in headers::method_overrides(request.headers()) {
            let method = String::from_utf8_lossy(method.as_bytes());
            self.filter.check(&target.request_head(&method, upgrades))?;
        }
        let head = target.request_head(request.method().as_str(), upgrades);
        exchange.set_rule(self.filter.check(&head)?);
        // The connection is bound only to a host that has been allowed.
        let _ = self.host.set(target.host.clone());
        Ok(target)
    }

    /// Returns the request for the server, and what its answer depends on.
    fn prepare_request(
        &self,
        request: Request<Incoming>,
        target: &Target,
        exchange: &Arc<Exchange>,
    ) -> Result<(Request<RequestBody>, Reply), Refusal> {
        let (mut parts, body) = request.into_parts();
        let upgrades = upgrade::is_websocket(&parts.headers, &body);
        let invalid = || Refusal::new("target_invalid", "The request's target is not valid.");

        // Headers for the server.
        let host = HeaderValue::try_from(target.authority()).map_err(|_| invalid())?;
        headers::prepare_request(&mut parts.headers, host, &body);
        if upgrades {
            upgrade::insert_headers(&mut parts.headers);
        }

        // Secrets: placeholders become values, and the answer must be readable for redaction.
        let matcher = self.secrets.matcher_for(&target.host);
        if matcher.is_some() {
            headers::request_plain_text(&mut parts.headers);
        }
        let is_tls = matches!(self.scheme, Scheme::Tls(_));
        self.secrets
            .substitute(&target.host, is_tls, &target.path, &mut parts.headers)?;

        let is_head = parts.method == Method::HEAD;
        let mut request = Request::new(RequestBody::new(body, Arc::clone(exchange)));
        *request.method_mut() = parts.method;
        *request.uri_mut() = target.path.parse().map_err(|_| invalid())?;
        *request.version_mut() = Version::HTTP_11;
        *request.headers_mut() = parts.headers;
        let reply = Reply {
            is_head,
            upgrades,
            matcher,
        };
        Ok((request, reply))
    }

    async fn forward(
        &self,
        request: Request<RequestBody>,
        reply: Reply,
        exchange: Arc<Exchange>,
    ) -> Result<Response<ResponseBody>, Aborted> {
        let sending = async { self.upstream.lock().await.send(request).await };
        let sent = tokio::select! {
            sent = sending => sent,
            () = self.answer_deadline() => {
                Err(SendError::Upstream(UpstreamError::TimedOut(self.answer_timeout)))
            }
        };

        let response = match sent {
            Ok(response) => self.prepare_response(response, &reply, &exchange),
            Err(SendError::ClosedWhileReused) => return Err(Aborted),
            Err(SendError::Upstream(error)) => Err(error),
        };
        // Some error messages repeat bytes of the server, so they are redacted as well.
        Ok(response.unwrap_or_else(|error| {
            let text = reply.redact(format!("{error}\n"));
            page::unreachable(text, &error, exchange)
        }))
    }

    /// Returns the response for the guest.
    fn prepare_response(
        &self,
        response: Response<Incoming>,
        reply: &Reply,
        exchange: &Arc<Exchange>,
    ) -> Result<Response<ResponseBody>, UpstreamError> {
        let status = response.status();
        if reply.matcher.is_some() && headers::is_encoded(response.headers()) {
            return Err(UpstreamError::Encoded);
        }
        if reply.matcher.is_some() && status == StatusCode::PARTIAL_CONTENT {
            return Err(UpstreamError::Partial);
        }

        let is_upgrade = status == StatusCode::SWITCHING_PROTOCOLS;
        let response = if is_upgrade {
            self.accept_upgrade(response, reply, exchange)?
        } else {
            response
        };
        exchange.set_status(status.as_u16());

        let (mut parts, incoming) = response.into_parts();
        let bodiless = reply.is_head || status == StatusCode::NOT_MODIFIED;
        headers::prepare_response(&mut parts.headers, &incoming, bodiless);
        if is_upgrade {
            upgrade::insert_headers(&mut parts.headers);
        }
        if let Some(matcher) = &reply.matcher {
            matcher.redact_headers(&mut parts.headers);
            headers::prepare_redacted(&mut parts.headers);
        }

        let body = ResponseBody::Server {
            incoming,
            redactor: reply.redactor(),
            ended: false,
            exchange: Arc::clone(exchange),
        };
        // A new response, without the server's reason phrase and HTTP version.
        let mut response = Response::new(body);
        *response.status_mut() = status;
        *response.headers_mut() = parts.headers;
        Ok(response)
    }

    /// Prepares both sides to be spliced after the guest has received the answer.
    fn accept_upgrade(
        &self,
        mut response: Response<Incoming>,
        reply: &Reply,
        exchange: &Arc<Exchange>,
    ) -> Result<Response<Incoming>, UpstreamError> {
        // The guest must have requested WebSocket, and the server must have agreed to it.
        let agreed = upgrade::is_websocket(response.headers(), response.body());
        let requested = self
            .requested_upgrade()
            .take_if(|_| agreed && reply.upgrades);
        let Some(guest) = requested else {
            let error = io::Error::other("it switched to a protocol that was not requested");
            return Err(UpstreamError::Failed(error));
        };

        let splice = Splice {
            guest,
            server: hyper::upgrade::on(&mut response),
            matcher: reply.matcher.clone(),
            exchange: Arc::clone(exchange),
            timer: Arc::clone(&self.timer),
        };
        *self.splice.lock().unwrap_or_else(PoisonError::into_inner) = Some(splice);
        Ok(response)
    }

    /// Waits for the answer's deadline, which moves while bytes of the request's body arrive.
    async fn answer_deadline(&self) {
        loop {
            let deadline = self.timer.last_activity() + self.answer_timeout;
            if deadline <= Instant::now() {
                return;
            }
            tokio::time::sleep_until(deadline).await;
        }
    }
}

/// Properties of a request that its answer depends on.
struct Reply {
    /// The request's method is HEAD.
    is_head: bool,
    /// The request is for WebSocket.
    upgrades: bool,
    /// Finds the secrets that must not come back from the host.
    matcher: Option<Arc<SecretMatcher>>,
}

impl Reply {
    fn redactor(&self) -> Option<Redactor> {
        self.matcher.clone().map(Redactor::new)
    }

    fn redact(&self, text: String) -> String {
        match &self.matcher {
            Some(matcher) => String::from_utf8_lossy(&matcher.redact(text.as_bytes())).into_owned(),
            None => text,
        }
    }
}
