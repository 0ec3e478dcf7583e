use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::net::TcpStream;

use super::connection::CONNECT;
use super::context::{Way, World};
use super::relay::ended;
use crate::events::{Event, NetworkAction};
use crate::http::{self, ANSWER, Connecting, Connector, Judge, Proxy, Scheme, Seen, Watch};
use crate::metering::{Count, Metered};
use crate::policy::{Decision, Host, HostName, Question, RuleId, decide};
use crate::refusal::Refusal;
use crate::stream::{Rewound, Stream, Unreachable};
use crate::tls::terminate;

impl World {
    /// Passes on plain HTTP, request by request.
    pub(super) async fn inspect(
        self: &Arc<Self>,
        guest: impl Stream,
        upstream: TcpStream,
        way: Way,
        decision: &Decision,
    ) {
        self.log.connected();
        self.pass_on(guest, upstream, way, decision, None).await;
    }

    /// Ends the guest's TLS, and passes on what is in it, request by request.
    pub(super) async fn terminate(
        self: &Arc<Self>,
        guest: Rewound<impl Stream>,
        upstream: TcpStream,
        way: Way,
        decision: &Decision,
        host: HostName,
    ) {
        self.log.connected();
        let failed = |code, why: String| {
            let event = Event {
                name: Some(host.clone()),
                ..Event::failed(NetworkAction::Connection, code, why)
            };
            self.log.add(event.at(way.to));
        };
        let Some(authority) = self.vault.authority() else {
            return failed(
                "no_authority",
                "no TLS ends here; this is a fault of fumehood".into(),
            );
        };
        let first = bytes::Bytes::new();
        match terminate(guest, first, host.as_ref(), authority).await {
            Ok(guest) => {
                self.pass_on(guest, upstream, way, decision, Some(host))
                    .await;
            }
            Err(error) => failed(
                "guest_tls",
                format!(
                    "the guest does not go on with TLS: {error}; does its client use the guest's own certificates?"
                ),
            ),
        }
    }

    async fn pass_on(
        self: &Arc<Self>,
        guest: impl Stream,
        upstream: TcpStream,
        way: Way,
        decision: &Decision,
        host: Option<HostName>,
    ) {
        let (to, count) = (way.to, Arc::<Count>::default());
        let proxy = self.proxy(way, host, upstream, &count);
        // What else went wrong was told, to the guest by a page and to the log by an event.
        if let Err(error) = proxy.serve(guest).await
            && is_no_request(&error)
        {
            let message = format!("what was sent is no request of HTTP/1: {error}");
            let event = Event {
                name: decision.subject.name.clone(),
                ..Event::new(NetworkAction::Request, false, "malformed_request", message)
            };
            self.log.add(event.at(to));
        }
        if count.spent().is_some() {
            self.log.add(ended(&count, decision).at(to));
        }
    }

    fn proxy(
        self: &Arc<Self>,
        way: Way,
        host: Option<HostName>,
        upstream: TcpStream,
        count: &Arc<Count>,
    ) -> Proxy {
        let to = way.to;
        let requests = Arc::new(Requests {
            world: self.clone(),
            way,
            tls: host.clone(),
            denied: Mutex::default(),
        });
        Proxy {
            scheme: match &host {
                Some(host) => Scheme::Sealed(host.to_string()),
                None => Scheme::Plain,
            },
            judge: requests.clone(),
            watch: requests,
            secrets: self.vault.secrets(),
            answer: ANSWER,
            connect: self.connector(to, host, upstream, count.clone()),
        }
    }

    /// The connection that is there, and further ones when the server has closed it.
    fn connector(
        self: &Arc<Self>,
        to: SocketAddr,
        host: Option<HostName>,
        first: TcpStream,
        count: Arc<Count>,
    ) -> Connector {
        let first = Mutex::new(Some(first));
        let world = self.clone();
        Box::new(move || -> Connecting {
            let kept = first.lock().unwrap_or_else(PoisonError::into_inner).take();
            let (world, count, host) = (world.clone(), count.clone(), host.clone());
            Box::pin(async move {
                let stream = match kept {
                    Some(stream) => stream,
                    None => world.dial_again(to).await?,
                };
                let stream = Metered::new(stream, world.budget.clone(), count);
                Ok(match host {
                    None => Box::new(stream) as Box<dyn Stream>,
                    Some(host) => {
                        let trust = world.trust.get().await.map_err(Unreachable::Untrusted)?;
                        Box::new(trust.connect(stream, host.as_ref()).await?)
                    }
                })
            })
        })
    }

    /// Another connection to a server that has closed the first: as one that the guest opens now.
    async fn dial_again(&self, to: SocketAddr) -> Result<TcpStream, Unreachable> {
        let denied = |why| Unreachable::Failed(io::Error::other(why));
        if !self.rate.take() {
            return Err(denied(self.too_many(to)));
        }
        let names = self.known.names(to.ip());
        let decision = decide(&self.policy, &Way { to, names }.connect());
        if !decision.is_allowed() {
            self.log
                .decided(NetworkAction::Connection, &self.policy, &decision);
            return Err(denied(decision.refusal(&self.policy.name)));
        }
        dial(to).await
    }
}

/// Whether a conversation ended since the guest sent what cannot be read.
fn is_no_request(error: &io::Error) -> bool {
    let inner = error.get_ref().and_then(|e| e.downcast_ref());
    inner.is_some_and(hyper::Error::is_parse)
}

async fn dial(to: SocketAddr) -> Result<TcpStream, Unreachable> {
    let opened = tokio::time::timeout(CONNECT, TcpStream::connect(to)).await;
    let stream = opened.map_err(|_| Unreachable::Slow(CONNECT))?;
    let stream = stream.map_err(Unreachable::Failed)?;
    let _ = stream.set_nodelay(true);
    Ok(stream)
}

/// The requests of one connection, one after the other: each is decided on, and told of.
struct Requests {
    world: Arc<World>,
    way: Way,
    tls: Option<HostName>,
    /// What the policy or its limits deny, until the request is over.
    denied: Mutex<Option<Event>>,
}

impl Requests {
    fn denied(&self) -> std::sync::MutexGuard<'_, Option<Event>> {
        self.denied.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is told of a request that was refused by this code.
    fn refused(&self, code: &'static str) -> Event {
        let by_policy = self.denied().take().filter(|event| event.code == code);
        by_policy.unwrap_or_else(|| {
            let message = "a request that is never passed on; its page says why";
            Event::new(NetworkAction::Request, false, code, message.into())
        })
    }
}

impl Judge for Requests {
    fn judge(&self, request: &Seen<'_>) -> Result<Option<RuleId>, Refusal> {
        // An address of IPv6 has lost its brackets.
        let host = match request.host.parse::<IpAddr>() {
            Ok(address) => Ok(Host::Address(address)),
            Err(_) => request.host.parse::<Host>(),
        };
        let Ok(host) = host else {
            return Err(Refusal::new(
                "no_host_name",
                "the request is for no host's name",
            ));
        };
        let question = Question::Request {
            address: self.way.to.ip(),
            port: self.way.to.port(),
            names: &self.way.names,
            tls: self.tls.as_ref(),
            host: &host,
            host_port: request.port,
            method: request.method,
        };
        let World { policy, budget, .. } = &*self.world;
        let decision = decide(policy, &question);
        if decision.is_allowed() {
            let afforded = budget.afford_both().map_err(|spent| {
                let text = format!(
                    "The limits of the policy `{}` deny it: {spent}.",
                    policy.name
                );
                let event = Event::new(NetworkAction::Request, false, "bytes", text.clone());
                *self.denied() = Some(event);
                Refusal::new("bytes", text)
            });
            return afforded.map(|()| decision.rule);
        }
        let event = Event::decided(NetworkAction::Request, policy, &decision);
        *self.denied() = Some(event);
        let text = decision.refusal(&policy.name);
        Err(Refusal::new(decision.reason.code(), text))
    }
}

impl Watch for Requests {
    fn over(&self, over: http::Event) {
        let event = match over.refused {
            Some(code) => self.refused(code),
            None => {
                let (code, message) = match over.lost {
                    false => ("rule", "a request was passed on"),
                    true => (
                        "unreachable",
                        "its server gave no answer; the page says why",
                    ),
                };
                Event {
                    rule: over.rule,
                    ..Event::new(NetworkAction::Request, true, code, message.into())
                }
            }
        };
        let told = Event {
            name: over.host.parse().ok(),
            method: Some(over.method),
            status: over.status,
            bytes_up: over.up,
            bytes_down: over.down,
            ..event
        };
        self.world.log.add(told.at(self.way.to));
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;
    use crate::dns::Resolver;
    use crate::policy::Policy;
    use crate::secret::Vault;
    use crate::testing::LINK;

    fn world(policy: &str) -> Arc<World> {
        let policy = Arc::new(Policy::parse_toml(policy, "test").unwrap());
        let resolver = Resolver::new(Vec::new());
        Arc::new(World::new(policy, Vault::default(), resolver, LINK.gateway))
    }

    #[tokio::test]
    async fn another_connection_is_one_that_is_opened_now() {
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let to = server.local_addr().unwrap();
        let rule = format!(
            "[[allow]]\naddresses = \"127.0.0.1\"\nports = {}\n",
            to.port()
        );
        let one = world(&format!("{rule}[limits]\nconnections_per_s = 1\n"));
        one.dial_again(to).await.unwrap();
        let why = one.dial_again(to).await.unwrap_err().to_string();
        assert!(why.contains("raise `connections_per_s`"), "{why}");
        // A name whose time is over.
        let named = world("[[allow]]\nhost = \"web.test\"\naddresses = \"127.0.0.1\"\n");
        let why = named.dial_again(to).await.unwrap_err().to_string();
        assert!(why.contains("denies"), "{why}");
        assert_eq!(named.log.summary().denials.len(), 1);
    }
}
