//! Connections whose HTTP requests are decided on one by one.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::net::TcpStream;

use super::connection::CONNECT_TIMEOUT;
use super::context::{ConnectionContext, Destination};
use super::relay::end_event;
use crate::events::{Event, NetworkAction};
use crate::http::{
    ANSWER_TIMEOUT, ConnectFuture, Connector, Proxy, RequestFilter, RequestHead, RequestObserver,
    RequestRecord, Scheme,
};
use crate::metering::{ByteCounter, MeteredStream};
use crate::policy::{Decision, Host, HostName, PolicyQuery, RuleId, decide};
use crate::refusal::Refusal;
use crate::stream::{Replay, Stream, UpstreamError};
use crate::tls::terminate;

impl ConnectionContext {
    /// Forwards plain HTTP request by request.
    pub(super) async fn inspect(
        self: &Arc<Self>,
        guest: impl Stream,
        upstream: TcpStream,
        destination: Destination,
        decision: &Decision,
    ) {
        self.log.count_connection();
        self.proxy_requests(guest, upstream, destination, decision, None)
            .await;
    }

    /// Terminates the guest's TLS and forwards the HTTP in it request by request.
    pub(super) async fn terminate(
        self: &Arc<Self>,
        guest: Replay<impl Stream>,
        upstream: TcpStream,
        destination: Destination,
        decision: &Decision,
        host: HostName,
    ) {
        self.log.count_connection();
        let record_failure = |code, reason: String| {
            let event = Event {
                name: Some(host.clone()),
                ..Event::failed(NetworkAction::Connection, code, reason)
            };
            self.log.record(event.at(destination.to));
        };

        // The vault has an authority whenever a rule or a secret terminates TLS.
        let Some(authority) = self.vault.authority() else {
            return record_failure(
                "no_authority",
                "there is no certificate authority to terminate TLS with; this is a bug in fumehood"
                    .into(),
            );
        };
        match terminate(guest, Bytes::new(), host.as_ref(), authority).await {
            Ok(guest) => {
                self.proxy_requests(guest, upstream, destination, decision, Some(host))
                    .await;
            }
            Err(error) => record_failure(
                "guest_tls",
                format!(
                    "the guest aborted the TLS handshake: {error}; check that its client uses the guest's system certificates"
                ),
            ),
        }
    }

    async fn proxy_requests(
        self: &Arc<Self>,
        guest: impl Stream,
        upstream: TcpStream,
        destination: Destination,
        decision: &Decision,
        host: Option<HostName>,
    ) {
        let to = destination.to;
        let counter = Arc::<ByteCounter>::default();
        let proxy = self.proxy(destination, host, upstream, &counter);

        // Other errors are recorded already: by a page for the guest and an event in the log.
        if let Err(error) = proxy.serve(guest).await
            && is_parse_error(&error)
        {
            let message = format!("the guest did not send a valid HTTP/1 request: {error}");
            let event = Event {
                name: decision.subject.name.clone(),
                ..Event::new(NetworkAction::Request, false, "malformed_request", message)
            };
            self.log.record(event.at(to));
        }

        if counter.exceeded().is_some() {
            self.log.record(end_event(&counter, decision).at(to));
        }
    }

    fn proxy(
        self: &Arc<Self>,
        destination: Destination,
        host: Option<HostName>,
        upstream: TcpStream,
        counter: &Arc<ByteCounter>,
    ) -> Proxy {
        let to = destination.to;

        // One object decides on the requests and records them.
        let requests = Arc::new(ProxiedRequests {
            context: self.clone(),
            destination,
            tls_host: host.clone(),
            denial: Mutex::default(),
        });

        Proxy {
            scheme: match &host {
                Some(host) => Scheme::Tls(host.to_string()),
                None => Scheme::Plain,
            },
            filter: requests.clone(),
            observer: requests,
            secrets: self.vault.secrets(),
            answer_timeout: ANSWER_TIMEOUT,
            connect: self.connector(to, host, upstream, counter.clone()),
        }
    }

    /// Returns a connector that yields the open connection first, and opens another one when the server has closed it.
    fn connector(
        self: &Arc<Self>,
        to: SocketAddr,
        host: Option<HostName>,
        first: TcpStream,
        counter: Arc<ByteCounter>,
    ) -> Connector {
        let first = Mutex::new(Some(first));
        let context = self.clone();
        Box::new(move || -> ConnectFuture {
            // The first call takes the connection that is open already.
            let open = first.lock().unwrap_or_else(PoisonError::into_inner).take();
            let (context, counter, host) = (context.clone(), counter.clone(), host.clone());
            Box::pin(async move {
                let stream = match open {
                    Some(stream) => stream,
                    None => context.reconnect(to).await?,
                };
                let stream = MeteredStream::new(stream, context.budget.clone(), counter);
                Ok(match host {
                    None => Box::new(stream) as Box<dyn Stream>,
                    Some(host) => {
                        let trust = context.trust.get().await;
                        let trust = trust.map_err(UpstreamError::Untrusted)?;
                        Box::new(trust.connect(stream, host.as_ref()).await?)
                    }
                })
            })
        })
    }

    /// Connects again to a server that closed the first connection. The rate and the policy apply as they do to a
    /// connection that the guest opens now.
    async fn reconnect(&self, to: SocketAddr) -> Result<TcpStream, UpstreamError> {
        let denied = |reason| UpstreamError::Failed(io::Error::other(reason));
        if !self.rate.try_acquire() {
            return Err(denied(self.record_rate_limit(to)));
        }

        let names = self.resolved_names.names_of(to.ip());
        let decision = decide(&self.policy, &Destination { to, names }.connect_query());
        if !decision.is_allowed() {
            self.log
                .record_decision(NetworkAction::Connection, &self.policy, &decision);
            return Err(denied(decision.refusal(&self.policy.name)));
        }

        dial(to).await
    }
}

/// Returns whether a connection ended because the guest's bytes could not be parsed.
fn is_parse_error(error: &io::Error) -> bool {
    let inner = error.get_ref().and_then(|e| e.downcast_ref());
    inner.is_some_and(hyper::Error::is_parse)
}

async fn dial(to: SocketAddr) -> Result<TcpStream, UpstreamError> {
    let opened = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(to)).await;
    let stream = opened.map_err(|_| UpstreamError::TimedOut(CONNECT_TIMEOUT))?;
    let stream = stream.map_err(UpstreamError::Failed)?;
    let _ = stream.set_nodelay(true);
    Ok(stream)
}

/// The requests of one connection, one after the other. Decides on each and records it.
struct ProxiedRequests {
    context: Arc<ConnectionContext>,
    destination: Destination,
    /// The host that TLS was terminated for; `None` for plain HTTP.
    tls_host: Option<HostName>,
    /// The denial of the current request by the policy or its limits, kept until the request is finished.
    denial: Mutex<Option<Event>>,
}

impl ProxiedRequests {
    fn denial(&self) -> MutexGuard<'_, Option<Event>> {
        self.denial.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the event for a request that was refused with this code.
    fn refusal_event(&self, code: &'static str) -> Event {
        let by_policy = self.denial().take().filter(|event| event.code == code);
        by_policy.unwrap_or_else(|| {
            let message =
                "the proxy never forwards such a request; the page in its answer gives the reason";
            Event::new(NetworkAction::Request, false, code, message.into())
        })
    }
}

impl RequestFilter for ProxiedRequests {
    fn check(&self, request: &RequestHead<'_>) -> Result<Option<RuleId>, Refusal> {
        // IPv6 addresses come without their brackets.
        let host = match request.host.parse::<IpAddr>() {
            Ok(address) => Ok(Host::Address(address)),
            Err(_) => request.host.parse::<Host>(),
        };
        let Ok(host) = host else {
            return Err(Refusal::new(
                "no_host_name",
                "the request's host is not a valid host name",
            ));
        };

        let query = PolicyQuery::Request {
            address: self.destination.to.ip(),
            port: self.destination.to.port(),
            names: &self.destination.names,
            tls: self.tls_host.as_ref(),
            host: &host,
            host_port: request.port,
            method: request.method,
            upgrades: request.upgrades,
        };
        let ConnectionContext { policy, budget, .. } = &*self.context;
        let decision = decide(policy, &query);
        if !decision.is_allowed() {
            let event = Event::decided(NetworkAction::Request, policy, &decision);
            *self.denial() = Some(event);
            let text = decision.refusal(&policy.name);
            return Err(Refusal::new(decision.reason.code(), text));
        }

        // An allowed request still needs bytes left in both directions.
        if let Err(exceeded) = budget.check_both() {
            let text = format!(
                "The limits of the policy `{}` deny it: {exceeded}.",
                policy.name
            );
            let event = Event::new(NetworkAction::Request, false, "bytes", text.clone());
            *self.denial() = Some(event);
            return Err(Refusal::new("bytes", text));
        }
        Ok(decision.rule)
    }
}

impl RequestObserver for ProxiedRequests {
    fn finished(&self, request: RequestRecord) {
        // A refused request has its event from the decision; others get a new one.
        let event = match request.refused {
            Some(code) => self.refusal_event(code),
            None => {
                let (code, message) = if request.unanswered {
                    (
                        "unreachable",
                        "the server did not answer; the page in the answer gives the reason",
                    )
                } else {
                    ("rule", "the request was forwarded")
                };
                Event {
                    rule: request.rule,
                    ..Event::new(NetworkAction::Request, true, code, message.into())
                }
            }
        };
        let event = Event {
            name: request.host.parse().ok(),
            method: Some(request.method),
            status: request.status,
            bytes_up: request.bytes_up,
            bytes_down: request.bytes_down,
            ..event
        };
        self.context.log.record(event.at(self.destination.to));
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;
    use crate::dns::Resolver;
    use crate::metering::ConnectionBudget;
    use crate::policy::Policy;
    use crate::secret::Vault;
    use crate::testing::LINK;

    fn context(policy: &str) -> Arc<ConnectionContext> {
        let policy = Arc::new(Policy::parse_toml(policy, "test").unwrap());
        let resolver = Resolver::new(Vec::new());
        Arc::new(ConnectionContext::new(
            policy,
            Vault::default(),
            resolver,
            LINK.gateway,
            ConnectionBudget::default(),
        ))
    }

    #[tokio::test]
    async fn reconnecting_obeys_the_rate_and_the_policy() {
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let to = server.local_addr().unwrap();
        let rule = format!(
            "[[allow]]\naddresses = \"127.0.0.1\"\nports = {}\n",
            to.port()
        );

        let limited = context(&format!("{rule}[limits]\nconnections_per_s = 1\n"));
        limited.reconnect(to).await.unwrap();
        let error = limited.reconnect(to).await.unwrap_err().to_string();
        assert!(error.contains("raise `connections_per_s`"), "{error}");

        // The name of this address was never resolved.
        let named = context("[[allow]]\nhost = \"web.test\"\naddresses = \"127.0.0.1\"\n");
        let error = named.reconnect(to).await.unwrap_err().to_string();
        assert!(error.contains("denies"), "{error}");
        assert_eq!(named.log.summary().denials.len(), 1);
    }
}
