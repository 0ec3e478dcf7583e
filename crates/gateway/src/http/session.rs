//! One guest's connection: each request is checked, judged, sent and answered.

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

use super::body::{Down, Up};
use super::exchange::{Exchange, Watch};
use super::idle_timer::Pulse;
use super::proxy::{Judge, Proxy, Scheme};
use super::target::Target;
use super::upgrade::Splice;
use super::upstream::{Failure, Upstream};
use super::{headers, page, upgrade};
use crate::refusal::Refusal;
use crate::secret::{Needles, Redactor, Secrets};
use crate::stream::Unreachable;

/// The guest's connection is cut without an answer.
#[derive(Debug, thiserror::Error)]
#[error("the server closed the connection")]
pub(super) struct Cut;

/// What all requests of a connection share.
pub(super) struct Session {
    scheme: Scheme,
    /// The one host that this connection speaks with, once it is known.
    host: OnceLock<String>,
    judge: Arc<dyn Judge>,
    watch: Arc<dyn Watch>,
    secrets: Arc<Secrets>,
    answer: Duration,
    pulse: Arc<Pulse>,
    upstream: tokio::sync::Mutex<Upstream>,
    /// The guest's side, since it asked for another protocol.
    offered: Mutex<Option<OnUpgrade>>,
    upgraded: Mutex<Option<Splice>>,
}

impl Session {
    pub(super) fn new(proxy: Proxy, pulse: Arc<Pulse>) -> Self {
        Self {
            host: match &proxy.scheme {
                Scheme::Plain => OnceLock::new(),
                Scheme::Sealed(host) => OnceLock::from(host.clone()),
            },
            scheme: proxy.scheme,
            judge: proxy.judge,
            watch: proxy.watch,
            secrets: proxy.secrets,
            answer: proxy.answer,
            pulse,
            upstream: tokio::sync::Mutex::new(Upstream::new(proxy.connect)),
            offered: Mutex::default(),
            upgraded: Mutex::default(),
        }
    }

    /// Both sides, if the last request has upgraded the connection.
    pub(super) fn upgraded(&self) -> Option<Splice> {
        let mut upgraded = self.upgraded.lock().unwrap_or_else(PoisonError::into_inner);
        upgraded.take()
    }

    /// Ends a connection that asked for another protocol and got none: it was left open by who read its requests,
    /// and without this the guest would lose the last answer.
    pub(super) async fn decline(&self) -> io::Result<()> {
        let offered = self.offered().take();
        match offered {
            // An error: it has been ended already.
            Some(guest) => match guest.await {
                Ok(guest) => TokioIo::new(guest).shutdown().await,
                Err(_) => Ok(()),
            },
            None => Ok(()),
        }
    }

    fn offered(&self) -> MutexGuard<'_, Option<OnUpgrade>> {
        self.offered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Answers one request.
    pub(super) async fn answer(
        self: Arc<Self>,
        mut request: Request<Incoming>,
    ) -> Result<Response<Down>, Cut> {
        if let Some(guest) = request.extensions_mut().remove::<OnUpgrade>() {
            *self.offered() = Some(guest);
        }
        let target = Target::of(&request, &self.scheme);
        let host = target.as_ref().map_or("", |target| &target.host);
        let method = request.method().as_str();
        let exchange = Exchange::begin(method, host, &self.pulse, &self.watch);
        let asked = target
            .and_then(|target| self.check(target, method, &exchange))
            .and_then(|target| self.asked(request, &target, &exchange));
        match asked {
            Ok((request, reply)) => self.forward(request, reply, exchange).await,
            Err(refusal) => Ok(page::denied(&refusal, exchange)),
        }
    }

    /// Judges a request, and holds the connection to its one host.
    fn check(&self, target: Target, method: &str, exchange: &Exchange) -> Result<Target, Refusal> {
        if let Some(host) = self.host.get().filter(|host| **host != target.host) {
            let text = format!(
                "This connection speaks with {host}; the request is for {}. Open another connection for it.",
                target.host
            );
            return Err(Refusal::new("host_changed", text));
        }
        exchange.allowed(self.judge.judge(&target.seen(method))?);
        // Only a host that was allowed once is held to.
        let _ = self.host.set(target.host.clone());
        Ok(target)
    }

    /// The request as the server is sent it, and what its answer needs.
    fn asked(
        &self,
        request: Request<Incoming>,
        target: &Target,
        exchange: &Arc<Exchange>,
    ) -> Result<(Request<Up>, Reply), Refusal> {
        let (mut parts, body) = request.into_parts();
        let upgrades = upgrade::wanted(&parts.headers, &body);
        let invalid = || Refusal::new("target_invalid", "The request's target is not valid.");
        let host = HeaderValue::try_from(target.authority()).map_err(|_| invalid())?;
        headers::request(&mut parts.headers, host, &body);
        if upgrades {
            upgrade::insert(&mut parts.headers);
        }
        let needles = self.secrets.needles(&target.host);
        if needles.is_some() {
            headers::legible(&mut parts.headers);
        }
        let sealed = matches!(self.scheme, Scheme::Sealed(_));
        self.secrets
            .place(&target.host, sealed, &target.path, &mut parts.headers)?;
        let head = parts.method == Method::HEAD;
        let mut request = Request::new(Up::new(body, Arc::clone(exchange)));
        *request.method_mut() = parts.method;
        *request.uri_mut() = target.path.parse().map_err(|_| invalid())?;
        *request.version_mut() = Version::HTTP_11;
        *request.headers_mut() = parts.headers;
        let reply = Reply {
            head,
            upgrades,
            needles,
        };
        Ok((request, reply))
    }

    async fn forward(
        &self,
        request: Request<Up>,
        reply: Reply,
        exchange: Arc<Exchange>,
    ) -> Result<Response<Down>, Cut> {
        let sent = async { self.upstream.lock().await.send(request).await };
        let sent = tokio::select! {
            sent = sent => sent,
            () = self.late() => Err(Failure::Unreachable(Unreachable::Slow(self.answer))),
        };
        let answered = match sent {
            Ok(response) => self.reply(response, &reply, &exchange),
            Err(Failure::Stale) => return Err(Cut),
            Err(Failure::Unreachable(why)) => Err(why),
        };
        // The server has a part in the words of some errors.
        Ok(answered.unwrap_or_else(|why| {
            let text = reply.clean(format!("{why}\n"));
            page::unreachable(text, &why, exchange)
        }))
    }

    /// The response as the guest is sent it.
    fn reply(
        &self,
        response: Response<Incoming>,
        reply: &Reply,
        exchange: &Arc<Exchange>,
    ) -> Result<Response<Down>, Unreachable> {
        let status = response.status();
        let switching = status == StatusCode::SWITCHING_PROTOCOLS;
        let response = if switching {
            self.switch(response, reply, exchange)?
        } else {
            response
        };
        exchange.status(status.as_u16());
        let (mut parts, incoming) = response.into_parts();
        let bodiless = reply.head || status == StatusCode::NOT_MODIFIED;
        headers::response(&mut parts.headers, &incoming, bodiless);
        if switching {
            upgrade::insert(&mut parts.headers);
        }
        if let Some(needles) = &reply.needles {
            needles.clean_headers(&mut parts.headers);
        }
        let body = Down::Server {
            incoming,
            redactor: reply.redactor(),
            ended: false,
            exchange: Arc::clone(exchange),
        };
        // A new one: the server's reason phrase and HTTP version stay behind.
        let mut response = Response::new(body);
        *response.status_mut() = status;
        *response.headers_mut() = parts.headers;
        Ok(response)
    }

    /// Readies both sides to be spliced, once the guest has been told.
    fn switch(
        &self,
        mut response: Response<Incoming>,
        reply: &Reply,
        exchange: &Arc<Exchange>,
    ) -> Result<Response<Incoming>, Unreachable> {
        let agreed = upgrade::wanted(response.headers(), response.body());
        let offered = self.offered().take_if(|_| agreed && reply.upgrades);
        let Some(guest) = offered else {
            let error = io::Error::other("it switched to a protocol that was not asked for");
            return Err(Unreachable::Failed(error));
        };
        let splice = Splice {
            guest,
            server: hyper::upgrade::on(&mut response),
            redactor: reply.redactor(),
            exchange: Arc::clone(exchange),
            pulse: Arc::clone(&self.pulse),
        };
        let mut upgraded = self.upgraded.lock().unwrap_or_else(PoisonError::into_inner);
        *upgraded = Some(splice);
        Ok(response)
    }

    /// Waits until the server has had its time, which begins anew while the request's body still moves.
    async fn late(&self) {
        loop {
            let deadline = self.pulse.last() + self.answer;
            if deadline <= Instant::now() {
                return;
            }
            tokio::time::sleep_until(deadline).await;
        }
    }
}

/// What the answer to a request depends on.
struct Reply {
    /// Asked by HEAD.
    head: bool,
    /// Asked for WebSocket.
    upgrades: bool,
    needles: Option<Arc<Needles>>,
}

impl Reply {
    fn redactor(&self) -> Option<Redactor> {
        self.needles.clone().map(Redactor::new)
    }

    fn clean(&self, text: String) -> String {
        match &self.needles {
            Some(needles) => String::from_utf8_lossy(&needles.clean(text.as_bytes())).into_owned(),
            None => text,
        }
    }
}
