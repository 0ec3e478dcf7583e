//! A gateway whose guest is a script.

use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, BytesMut};
use tokio::sync::mpsc;
use tokio::task::{JoinSet, yield_now};

use super::guest::{Guest, LINK};
use super::script::{self, Act};
use super::services;
use crate::dns::Resolver;
use crate::events::Event;
use crate::flow::ConnectionContext;
use crate::metering::ConnectionBudget;
use crate::policy::{Policy, PolicyQuery, decide};
use crate::secret::Vault;
use crate::stack::{Arrival, Stack};

const POLICY: &str = r#"
[[allow]]
addresses = ["203.0.113.0/24", "2001:db8::/48"]
ports = "any"
[[allow]]
host = "allowed.test"
[limits]
connections = 12
"#;

/// Longer than any connection may take to end, and than any deadline in a flow.
const LONG_WAIT: Duration = Duration::from_secs(31);

/// The context of a gateway. Its connections fail, because there is no network.
pub(super) fn context() -> Arc<ConnectionContext> {
    let policy = Arc::new(Policy::parse_toml(POLICY, "fuzz").expect("a policy"));
    let resolver = Resolver::new(vec![([203, 0, 113, 53], 53).into()]);
    Arc::new(ConnectionContext::new(
        policy,
        Vault::default(),
        resolver,
        LINK.gateway,
        ConnectionBudget::default(),
    ))
}

/// A gateway whose guest is a script.
pub(super) struct Play {
    pub(super) stack: Stack,
    context: Arc<ConnectionContext>,
    events: mpsc::Receiver<Event>,
    arrivals: mpsc::Receiver<Arrival>,
    tasks: JoinSet<()>,
    pub(super) guest: Guest,
    read: BytesMut,
    listens: bool,
}

pub(super) async fn play(bytes: &[u8]) {
    let mut play = Play::new();
    for act in script::read(bytes) {
        if !play.act(&act).await {
            break;
        }
    }

    play.end().await;
}

impl Play {
    pub(super) fn new() -> Self {
        let context = context();
        let max_connections = usize::try_from(context.policy.limits.connections).expect("a few");
        let (stack, arrivals) = Stack::new(LINK, 7, max_connections);

        Self {
            stack,
            events: context.log.subscribe(),
            context,
            arrivals,
            tasks: JoinSet::new(),
            guest: Guest::default(),
            read: BytesMut::new(),
            listens: true,
        }
    }

    /// Performs an act; returns `false` if the wire is closed.
    pub(super) async fn act(&mut self, act: &Act) -> bool {
        // Frames of the act go onto the wire, at most as long as the link allows.
        for frame in act.frames(&mut self.guest) {
            let length = frame.len().min(LINK.mtu + 14);
            if length > 0 {
                self.read.put_u32(u32::try_from(length).expect("a frame"));
                self.read.put_slice(&frame[..length]);
            }
        }

        // Other acts change the wire, the host or the time.
        match act {
            Act::Wire(bytes) => self.read.put_slice(bytes),
            Act::Inbound { v6, port } => {
                let inbound = services::inbound(self.stack.clone(), *v6, (*port).into());
                self.tasks.spawn(inbound);
            }
            Act::Wait { millis } => {
                tokio::time::advance(Duration::from_millis((*millis).into())).await;
            }
            Act::Listen(listens) => self.listens = *listens,
            Act::Abort => self.tasks.abort_all(),
            _ => {}
        }

        self.turn().await
    }

    /// Runs all tasks until they wait.
    async fn turn(&mut self) -> bool {
        /// The number of rounds in which a query, its answer and the consequences pass through all tasks.
        const ROUNDS: usize = 3;
        for _ in 0..ROUNDS {
            if self.stack.step(&mut self.read).is_none() {
                return false;
            }

            if self.listens {
                self.guest.read(&self.stack.take_outbox());
            }

            while let Ok(arrival) = self.arrivals.try_recv() {
                self.arrived(arrival);
            }

            yield_now().await;
            while self.tasks.try_join_next().is_some() {}
            self.check_events();
        }

        true
    }

    fn arrived(&mut self, arrival: Arrival) {
        let context = self.context.clone();
        match arrival {
            Arrival::Connection(guest) if services::PORTS.contains(&guest.remote().port()) => {
                self.tasks.spawn(services::serve(guest));
            }
            Arrival::Connection(guest) => {
                self.tasks.spawn(async move { context.serve(guest).await });
            }
            Arrival::DnsQuery { from, message } => {
                let stack = self.stack.clone();
                self.tasks.spawn(async move {
                    if let Some(answer) = context.name_server.answer(&message, false).await {
                        stack.send_dns_answer(from, &answer);
                    }
                });
            }
            Arrival::Rejected(refused) => context.record_rejected(refused),
        }
    }

    /// Asserts that flows have only dialed destinations that the policy allows.
    fn check_events(&mut self) {
        while let Ok(event) = self.events.try_recv() {
            assert_ne!(event.code, "connected", "a network is there");
            if event.code != "unreachable" {
                continue;
            }

            let question = PolicyQuery::Connect {
                address: event.address.expect("an address"),
                port: event.port.expect("a port"),
                names: &[],
            };

            let decision = decide(&self.context.policy, &question);
            assert!(decision.is_allowed(), "dialed: {event:?}");
        }
    }

    /// Drops all streams while the guest is silent, and asserts that no connection is left.
    pub(super) async fn end(mut self) {
        /// The number of turns after which all connections are over.
        const TURNS: usize = 4;
        self.tasks.shutdown().await;

        while let Ok(arrival) = self.arrivals.try_recv() {
            drop(arrival);
        }

        self.read.clear();
        for _ in 0..TURNS {
            self.guest.read(&self.stack.take_outbox());
            self.assert_rests();
            tokio::time::advance(LONG_WAIT).await;
        }

        assert!(
            self.stack.is_empty(),
            "connections are left: {:?}",
            self.stack
        );
    }

    /// Asserts that the stack comes to rest without input.
    fn assert_rests(&mut self) {
        /// More turns than a full buffer has segments: each connection sends one per turn.
        const TURNS: usize = 256;
        for _ in 0..TURNS {
            let Some(turn) = self.stack.step(&mut self.read) else {
                return;
            };

            let out = self.stack.take_outbox();
            self.guest.read(&out);
            if out.is_empty() && !turn.has_more && !turn.next.is_zero() {
                return;
            }
        }

        panic!("the stack does not come to rest");
    }
}
