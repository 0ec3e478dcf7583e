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
use crate::flow::World;
use crate::policy::{Policy, Question, decide};
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

/// Longer than any connection may take to come to its end, and than anything in a flow waits.
const LONG: Duration = Duration::from_secs(31);

/// A gateway's flows, of which none can leave where no network is.
pub(super) fn world() -> Arc<World> {
    let policy = Arc::new(Policy::parse_toml(POLICY, "fuzz").expect("a policy"));
    let resolver = Resolver::new(vec![([203, 0, 113, 53], 53).into()]);
    Arc::new(World::new(policy, Vault::default(), resolver, LINK.gateway))
}

/// A gateway whose guest is a script.
pub(super) struct Play {
    pub(super) stack: Stack,
    world: Arc<World>,
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
        let world = world();
        let most = usize::try_from(world.policy.limits.connections).expect("a few");
        let (stack, arrivals) = Stack::new(LINK, 7, most);
        Self {
            stack,
            events: world.log.listen(),
            world,
            arrivals,
            tasks: JoinSet::new(),
            guest: Guest::default(),
            read: BytesMut::new(),
            listens: true,
        }
    }

    /// `false`: the wire is closed.
    pub(super) async fn act(&mut self, act: &Act) -> bool {
        for frame in act.frames(&mut self.guest) {
            let length = frame.len().min(LINK.mtu + 14);
            if length > 0 {
                self.read.put_u32(u32::try_from(length).expect("a frame"));
                self.read.put_slice(&frame[..length]);
            }
        }
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

    /// Lets everybody do what there is to do.
    async fn turn(&mut self) -> bool {
        /// Rounds in which a question, its answer and what comes of it pass through all hands.
        const ROUNDS: usize = 3;
        for _ in 0..ROUNDS {
            if self.stack.step(&mut self.read).is_none() {
                return false;
            }
            if self.listens {
                self.guest.read(&self.stack.take_out());
            }
            while let Ok(arrival) = self.arrivals.try_recv() {
                self.arrived(arrival);
            }
            yield_now().await;
            while self.tasks.try_join_next().is_some() {}
            self.look_at_events();
        }
        true
    }

    fn arrived(&mut self, arrival: Arrival) {
        let world = self.world.clone();
        match arrival {
            Arrival::Connection(guest) if services::PORTS.contains(&guest.remote().port()) => {
                self.tasks.spawn(services::serve(guest));
            }
            Arrival::Connection(guest) => {
                self.tasks.spawn(async move { world.serve(guest).await });
            }
            Arrival::Question { from, message } => {
                let stack = self.stack.clone();
                self.tasks.spawn(async move {
                    if let Some(answer) = world.names.answer(&message, false).await {
                        stack.answer(from, &answer);
                    }
                });
            }
            Arrival::Refused(refused) => world.refused(refused),
        }
    }

    /// Whom a flow has tried to reach, it may reach.
    fn look_at_events(&mut self) {
        while let Ok(event) = self.events.try_recv() {
            assert_ne!(event.code, "connected", "a network is there");
            if event.code != "unreachable" {
                continue;
            }
            let question = Question::Connect {
                address: event.address.expect("an address"),
                port: event.port.expect("a port"),
                names: &[],
            };
            let decision = decide(&self.world.policy, &question);
            assert!(decision.is_allowed(), "dialed: {event:?}");
        }
    }

    /// Nobody holds anything any more, and the guest is silent: then nothing is left.
    pub(super) async fn end(mut self) {
        /// Turns of a stack whose connections are all over.
        const TURNS: usize = 4;
        self.tasks.shutdown().await;
        while let Ok(arrival) = self.arrivals.try_recv() {
            drop(arrival);
        }
        self.read.clear();
        for _ in 0..TURNS {
            self.guest.read(&self.stack.take_out());
            self.rests();
            tokio::time::advance(LONG).await;
        }
        assert!(
            self.stack.is_empty(),
            "connections are left: {:?}",
            self.stack
        );
    }

    /// With nothing to take in, a stack that has said all comes to rest.
    fn rests(&mut self) {
        /// More turns than a full buffer has segments: each connection sends one in a turn.
        const TURNS: usize = 256;
        for _ in 0..TURNS {
            let Some(turn) = self.stack.step(&mut self.read) else {
                return;
            };
            let out = self.stack.take_out();
            self.guest.read(&out);
            if out.is_empty() && !turn.more && !turn.next.is_zero() {
                return;
            }
        }
        panic!("the stack does not come to rest");
    }
}
