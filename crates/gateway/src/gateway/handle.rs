//! The handle of a running gateway.

use std::sync::Arc;

use tokio::net::{TcpListener, UnixStream};
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;

use super::config::{Connections, GatewayConfig};
use super::exposed_port::serve_exposed_port;
use super::serve::run;
use crate::dns::Resolver;
use crate::events::{Event, Log, Summary};
use crate::flow::ConnectionContext;
use crate::metering::{Budget, ConnectionBudget};
use crate::stack::Stack;

/// A guest's network. Dropping it ends the network and all of its connections.
#[derive(Debug)]
pub struct Gateway {
    stack: Stack,
    log: Arc<Log>,
    budget: Arc<Budget>,
    connections: ConnectionBudget,
    tasks: Vec<AbortHandle>,
    /// Closed when the guest is gone.
    guest_gone: watch::Receiver<()>,
}

impl Drop for Gateway {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// An error that prevents a gateway from starting.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GatewayError {
    /// Connections need unpredictable sequence numbers.
    #[error("cannot read random numbers from this host: {0}")]
    Randomness(String),
}

impl Gateway {
    /// Starts the network of the guest at the other end of `wire`, which carries the frames of a QEMU `stream` network
    /// backend. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// Returns [`GatewayError`] if the host provides no random numbers.
    pub fn start(wire: UnixStream, config: GatewayConfig) -> Result<Self, GatewayError> {
        // The stack, which resets connections of an earlier gateway first.
        let seed = getrandom::u64().map_err(|e| GatewayError::Randomness(e.to_string()))?;
        let limits = config.policy.limits;
        let max_connections = usize::try_from(limits.connections).unwrap_or(usize::MAX);
        let (stack, arrivals) = Stack::new(config.link, seed, max_connections);
        stack.reset_stale_connections(&config.stale.0);

        // The state that all connections share.
        let resolver = Resolver::new(config.name_servers);
        let gateway = config.link.gateway;
        let context = ConnectionContext::new(
            config.policy,
            config.vault,
            resolver,
            gateway,
            config.connections.clone(),
        );
        let (log, budget) = (context.log.clone(), context.budget.clone());

        // The task that runs until the guest is gone.
        let (guest_lives, guest_gone) = watch::channel(());
        let running = run(
            stack.clone(),
            wire,
            Arc::new(context),
            arrivals,
            guest_lives,
        );
        let task = tokio::spawn(running);

        Ok(Self {
            stack,
            log,
            budget,
            connections: config.connections,
            tasks: vec![task.abort_handle()],
            guest_gone,
        })
    }

    /// Returns a receiver of all events from now on. There is one receiver at a time: a new one replaces the last. A
    /// receiver that is slow misses events, and the summary counts them.
    pub fn events(&self) -> mpsc::Receiver<Event> {
        self.log.subscribe()
    }

    /// Returns a summary of everything the guest did on its network.
    #[must_use]
    pub fn summary(&self) -> Summary {
        let (bytes_up, bytes_down) = self.budget.used();
        Summary {
            bytes_up,
            bytes_down,
            ..self.log.summary()
        }
    }

    /// Returns the connections that are open now. Pass them to the gateway of a guest that is restored from a state
    /// saved at this moment.
    #[must_use]
    pub fn connections(&self) -> Connections {
        Connections(self.stack.tuples())
    }

    /// Forwards connections that `listener` accepts to a port of the guest.
    pub fn expose(&mut self, listener: TcpListener, port: u16) {
        let (stack, log) = (self.stack.clone(), self.log.clone());
        let connections = self.connections.clone();
        let mut guest_gone = self.guest_gone.clone();
        let task = tokio::spawn(async move {
            tokio::select! {
                () = serve_exposed_port(stack, log, listener, port, connections) => {}
                _ = guest_gone.changed() => {}
            }
        });
        self.tasks.push(task.abort_handle());
    }
}
