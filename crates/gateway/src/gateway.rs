use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};

use crate::budget::{Budget, Count, Metered};
use crate::dns::Resolver;
use crate::event::{Event, Log, NetworkAction, Summary};
use crate::flow::{World, pass_both_ways};
use crate::link::LinkAddresses;
use crate::policy::{Policy, Question, decide};
use crate::stack::{Arrival, GuestStream, Refused, Stack, Tuple, drive};
use crate::vault::Vault;

/// Questions about names that are looked up at a time; further ones are lost, and asked again.
const LOOKUPS: usize = 64;

/// What a gateway is to be like.
#[derive(Debug, Clone)]
pub struct GatewayConfig {
    /// The wire to the guest.
    pub link: LinkAddresses,
    /// What the guest may reach.
    pub policy: Arc<Policy>,
    /// What the gateway knows and the guest does not.
    pub vault: Vault,
    /// Name servers to ask; none: this host's own.
    pub name_servers: Vec<SocketAddr>,
    /// Connections that the guest believes to be open, since it had them when its state was saved.
    pub stale: Connections,
}

/// The connections of a guest at one moment.
#[derive(Debug, Clone, Default)]
pub struct Connections(Vec<Tuple>);

impl Connections {
    /// These, and those of another moment.
    #[must_use]
    pub fn with(mut self, other: Self) -> Self {
        let missing = other.0.into_iter().filter(|tuple| !self.0.contains(tuple));
        let missing: Vec<Tuple> = missing.collect();
        self.0.extend(missing);
        self
    }
}

/// A guest's network. It ends, and with it all of its connections, when it is dropped.
#[derive(Debug)]
pub struct Gateway {
    stack: Stack,
    log: Arc<Log>,
    budget: Arc<Budget>,
    tasks: Vec<AbortHandle>,
    /// Closed once the guest is gone.
    ended: watch::Receiver<()>,
}

impl Drop for Gateway {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// Why there is no gateway.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GatewayError {
    /// Numbers that nobody can guess are needed for connections.
    #[error("this host gives no randomness: {0}")]
    Randomness(String),
}

impl Gateway {
    /// Begins to speak with the guest at the other end of the wire, which carries QEMU's frames of a `stream`
    /// network backend. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// [`GatewayError`].
    pub fn start(wire: UnixStream, setup: GatewayConfig) -> Result<Self, GatewayError> {
        let seed = getrandom::u64().map_err(|e| GatewayError::Randomness(e.to_string()))?;
        let limits = setup.policy.limits;
        let most = usize::try_from(limits.connections).unwrap_or(usize::MAX);
        let (stack, arrivals) = Stack::new(setup.link, seed, most);
        stack.end_stale(&setup.stale.0);
        let resolver = Resolver::new(setup.name_servers);
        let world = World::new(setup.policy, setup.vault, resolver, setup.link.gateway);
        let (log, budget) = (world.log.clone(), world.budget.clone());
        let (over, ended) = watch::channel(());
        let task = tokio::spawn(live(stack.clone(), wire, Arc::new(world), arrivals, over));
        let tasks = vec![task.abort_handle()];
        Ok(Self {
            stack,
            log,
            budget,
            tasks,
            ended,
        })
    }

    /// All that the guest does from now on. There is one listener at a time; one that is slow misses events,
    /// and the summary says how many.
    pub fn events(&self) -> mpsc::Receiver<Event> {
        self.log.listen()
    }

    /// All that the guest has done.
    #[must_use]
    pub fn summary(&self) -> Summary {
        let (bytes_up, bytes_down) = self.budget.used();
        Summary {
            bytes_up,
            bytes_down,
            ..self.log.summary()
        }
    }

    /// The connections that are open now: to be given to the gateway of a guest that goes on from its state.
    #[must_use]
    pub fn connections(&self) -> Connections {
        Connections(self.stack.tuples())
    }

    /// Passes connections that this listener takes on to a port of the guest.
    pub fn expose(&mut self, listener: TcpListener, port: u16) {
        let (stack, log) = (self.stack.clone(), self.log.clone());
        let mut ended = self.ended.clone();
        let task = tokio::spawn(async move {
            tokio::select! {
                () = expose(stack, log, listener, port) => {}
                _ = ended.changed() => {}
            }
        });
        self.tasks.push(task.abort_handle());
    }
}

/// Sees to a guest for as long as it is there: with its wire, all of its connections end.
async fn live(
    stack: Stack,
    wire: UnixStream,
    world: Arc<World>,
    arrivals: mpsc::Receiver<Arrival>,
    over: watch::Sender<()>,
) {
    let log = world.log.clone();
    let ended = tokio::select! {
        ended = drive(stack.clone(), wire) => ended,
        () = serve(stack, world, arrivals) => Ok(()),
    };
    if let Err(error) = ended {
        log.add(Event::failed(
            NetworkAction::Packet,
            "network_ended",
            error.to_string(),
        ));
    }
    drop(over);
}

/// Sees to all that the guest does; its tasks end with it.
async fn serve(stack: Stack, world: Arc<World>, mut arrivals: mpsc::Receiver<Arrival>) {
    let mut tasks = JoinSet::new();
    let lookups = Arc::new(Semaphore::new(LOOKUPS));
    loop {
        let arrival = tokio::select! {
            arrival = arrivals.recv() => arrival,
            Some(_) = tasks.join_next() => continue,
        };
        match arrival {
            None => return,
            Some(Arrival::Connection(guest)) => {
                let world = world.clone();
                tasks.spawn(async move { world.serve(guest).await });
            }
            Some(Arrival::Question { from, message }) => {
                let Ok(turn) = lookups.clone().try_acquire_owned() else {
                    continue;
                };
                let (world, stack) = (world.clone(), stack.clone());
                tasks.spawn(async move {
                    if let Some(answer) = world.names.answer(&message, false).await {
                        stack.answer(from, &answer);
                    }
                    drop(turn);
                });
            }
            Some(Arrival::Refused(refused)) => world.refused(refused),
        }
    }
}

impl World {
    pub(crate) fn refused(&self, refused: Refused) {
        let question = match refused {
            Refused::Datagram(to) => Question::Datagram {
                address: to.ip(),
                port: to.port(),
            },
            Refused::Protocol { number, address } => Question::Other {
                protocol: number,
                address,
            },
            other => return self.log.packet(other),
        };
        let decision = decide(&self.policy, &question);
        self.log
            .decided(NetworkAction::Packet, &self.policy, &decision);
    }
}

/// Connections that one exposed port may have at a time.
const INBOUND: usize = 128;

async fn expose(stack: Stack, log: Arc<Log>, listener: TcpListener, port: u16) {
    let mut tasks = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept(), if tasks.len() < INBOUND => accepted,
            Some(_) = tasks.join_next() => continue,
        };
        match accepted {
            Ok((client, _)) => {
                let (stack, log) = (stack.clone(), log.clone());
                tasks.spawn(async move { inbound(&stack, &log, client, port).await });
            }
            // Out of descriptors, or a client that has gone: others may come.
            Err(error) => {
                tracing::warn!(%error, "a connection to an exposed port was lost");
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
        }
    }
}

async fn inbound(stack: &Stack, log: &Log, client: TcpStream, port: u16) {
    /// How long a guest may take to answer.
    const ANSWER: std::time::Duration = std::time::Duration::from_secs(10);
    let to = SocketAddr::new(stack.link().guest.v4.into(), port);
    let opened = tokio::time::timeout(ANSWER, stack.connect(to)).await;
    let why = match opened {
        Ok(Ok(guest)) => {
            let event = exchange(client, guest).await;
            return log.add(Event {
                port: Some(port),
                ..event
            });
        }
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("the guest does not answer within {ANSWER:?}"),
    };
    log.add(Event {
        port: Some(port),
        ..Event::failed(NetworkAction::Inbound, "not_served", why)
    });
}

/// Passes on what a client of this host and the guest say. Who exposes a port sets it no limits.
async fn exchange(client: TcpStream, mut guest: GuestStream) -> Event {
    let _ = client.set_nodelay(true);
    let count = Arc::<Count>::default();
    let mut client = Metered::new(client, Arc::new(Budget::unlimited()), count.clone());
    let message = match pass_both_ways(&mut guest, &mut client).await {
        true => "a client of this host used the exposed port",
        false => "a client of this host used the exposed port, until one side broke off",
    };
    let (bytes_up, bytes_down) = count.read();
    Event {
        bytes_up,
        bytes_down,
        ..Event::new(NetworkAction::Inbound, true, "exposed", message.into())
    }
}

#[cfg(test)]
mod tests;
