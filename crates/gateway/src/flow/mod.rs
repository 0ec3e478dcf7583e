//! One connection of a guest's, from its first packet to its end.

mod first_bytes;
mod name_server;
mod refuse;
mod relay;
mod requests;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::net::TcpStream;

use crate::budget::{Budget, Rate};
use crate::dns::{Known, NameServer, Resolver};
use crate::event::{Event, Log, NetworkAction};
use crate::link::Endpoint;
use crate::policy::{Decision, HostName, Pass, Policy, Question, Said, Verdict, decide};
use crate::stack::{DNS_PORT, GuestStream};
use crate::stream::Rewound;
use crate::vault::Vault;
use first_bytes::{First, first_bytes};
pub(crate) use relay::pass_both_ways;
use requests::LazyTrust;

/// How long another host may take to answer a connection.
const CONNECT: Duration = Duration::from_secs(10);

/// What all connections of a guest have in common.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) policy: Arc<Policy>,
    known: Arc<Known>,
    pub(crate) log: Arc<Log>,
    pub(crate) budget: Arc<Budget>,
    /// New connections.
    rate: Rate,
    pub(crate) names: Arc<NameServer>,
    vault: Vault,
    trust: LazyTrust,
}

impl World {
    /// Nothing has been done in it. `gateway`: the end of the guest's cable that is ours.
    pub(crate) fn new(
        policy: Arc<Policy>,
        vault: Vault,
        resolver: Resolver,
        gateway: Endpoint,
    ) -> Self {
        let limits = policy.limits;
        let (log, known) = (Arc::<Log>::default(), Arc::<Known>::default());
        let names = NameServer {
            policy: policy.clone(),
            known: known.clone(),
            log: log.clone(),
            resolver,
            rate: Rate::new(limits.lookups_per_s.into()),
            refuser: gateway,
        };
        Self {
            policy,
            known,
            log,
            budget: Arc::new(Budget::new(limits)),
            rate: Rate::new(limits.connections_per_s.into()),
            names: Arc::new(names),
            vault,
            trust: LazyTrust::default(),
        }
    }
}

/// Where a connection goes, by what it was known as when it was opened.
#[derive(Debug)]
struct Way {
    to: SocketAddr,
    names: Vec<HostName>,
}

impl Way {
    fn connect(&self) -> Question<'_> {
        Question::Connect {
            address: self.to.ip(),
            port: self.to.port(),
            names: &self.names,
        }
    }

    fn speak<'a>(&'a self, said: Said<'a>) -> Question<'a> {
        Question::Speak {
            address: self.to.ip(),
            port: self.to.port(),
            names: &self.names,
            said,
        }
    }
}

impl World {
    /// Decides on a connection that a guest opens, and sees it to its end.
    pub(crate) async fn serve(self: &Arc<Self>, guest: GuestStream) {
        let to = guest.remote();
        if self.names.refuser.has(to.ip()) {
            match to.port() {
                DNS_PORT => self.answer_names(guest).await,
                _ => self.refuse_by_name(guest).await,
            }
            return;
        }
        if !self.rate.take() {
            self.too_many(to);
            return;
        }
        let names = self.known.names(to.ip());
        let way = Way { to, names };
        let decision = decide(&self.policy, &way.connect());
        match decision.verdict {
            Verdict::Deny => {
                self.log
                    .decided(NetworkAction::Connection, &self.policy, &decision);
                self.refuse(guest, &decision).await;
            }
            Verdict::Allow(pass) => self.connect(guest, way, pass, decision).await,
        }
    }

    /// Tells that this connection is one too many in its second.
    fn too_many(&self, to: SocketAddr) -> String {
        let text = format!(
            "more than {} new connections a second; raise `connections_per_s` in the policy's limits",
            self.policy.limits.connections_per_s
        );
        let event = Event::new(
            NetworkAction::Connection,
            false,
            "connection_rate",
            text.clone(),
        );
        self.log.add(at(to, event));
        text
    }

    async fn connect(
        self: &Arc<Self>,
        guest: GuestStream,
        way: Way,
        pass: Pass,
        decision: Decision,
    ) {
        // The guest's own connection comes about when the other one has: a host that refuses, refuses.
        let upstream = tokio::time::timeout(CONNECT, TcpStream::connect(way.to)).await;
        let upstream = match upstream {
            Ok(Ok(upstream)) => upstream,
            Ok(Err(error)) => return self.unreachable(&way, &decision, &error.to_string()),
            Err(_) => {
                let why = format!("no answer within {CONNECT:?}");
                return self.unreachable(&way, &decision, &why);
            }
        };
        let _ = upstream.set_nodelay(true);
        if !guest.accept().await {
            return;
        }
        match pass {
            Pass::Through => {
                self.log
                    .decided(NetworkAction::Connection, &self.policy, &decision);
                self.relay(guest, upstream, &decision).await;
            }
            Pass::Listen | Pass::Inspect | Pass::Terminate => {
                self.listen(guest, upstream, way).await;
            }
        }
    }

    /// Reads what the guest says first, and decides by that.
    async fn listen(self: &Arc<Self>, mut guest: GuestStream, upstream: TcpStream, way: Way) {
        let heard = tokio::select! {
            biased;
            heard = first_bytes(&mut guest) => heard,
            begun = first_of(&upstream) => match begun {
                // Its client waits for it to begin.
                true => Some((First::Nothing, Bytes::new())),
                false => {
                    let decision = decide(&self.policy, &way.connect());
                    return self.unreachable(&way, &decision, "it closed the connection at once");
                }
            },
        };
        let Some((first, bytes)) = heard else {
            return;
        };
        let server_name = first.server_name();
        let said = first.said(server_name.as_ref());
        let decision = decide(&self.policy, &way.speak(said));
        self.log
            .decided(NetworkAction::Connection, &self.policy, &decision);
        let pass = match decision.verdict {
            Verdict::Deny => return self.refuse_first(guest, &first, bytes, &decision).await,
            Verdict::Allow(pass) => pass,
        };
        let guest = Rewound::new(bytes, guest);
        match (pass, server_name) {
            (Pass::Inspect, _) => self.inspect(guest, upstream, way, &decision).await,
            (Pass::Terminate, Some(host)) => {
                self.terminate(guest, upstream, way, &decision, host).await;
            }
            // Only TLS that says a name is terminated.
            (Pass::Terminate, None) => {}
            (Pass::Through | Pass::Listen, _) => self.relay(guest, upstream, &decision).await,
        }
    }

    /// The guest's connection is reset, as one that nobody answers.
    fn unreachable(&self, way: &Way, decision: &Decision, why: &str) {
        let event = Event {
            rule: decision.rule.clone(),
            name: decision.subject.name.clone(),
            ..Event::failed(NetworkAction::Connection, "unreachable", why.to_string())
        };
        self.log.add(at(way.to, event));
    }
}

/// Waits for a server that speaks before its client does; `false`: it is gone.
async fn first_of(upstream: &TcpStream) -> bool {
    matches!(upstream.peek(&mut [0; 1]).await, Ok(1))
}

fn at(to: SocketAddr, event: Event) -> Event {
    Event {
        address: Some(to.ip()),
        port: Some(to.port()),
        ..event
    }
}
