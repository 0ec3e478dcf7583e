use std::sync::Arc;

use tokio::net::{TcpListener, UnixStream};
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;

use super::config::{Connections, GatewayConfig};
use super::exposed_port::expose;
use super::serve::live;
use crate::dns::Resolver;
use crate::events::{Event, Log, Summary};
use crate::flow::World;
use crate::metering::Budget;
use crate::stack::Stack;

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
