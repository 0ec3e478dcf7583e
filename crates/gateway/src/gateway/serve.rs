//! The tasks of a running gateway.

use std::sync::Arc;

use tokio::net::UnixStream;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;

use crate::events::{Event, NetworkAction};
use crate::flow::ConnectionContext;
use crate::stack::{Arrival, Stack, drive};

/// Maximum number of concurrent lookups. Further queries are dropped, and the guest repeats them.
const MAX_LOOKUPS: usize = 64;

/// Serves a guest until its wire is closed, which ends all of its connections.
pub(super) async fn run(
    stack: Stack,
    wire: UnixStream,
    context: Arc<ConnectionContext>,
    arrivals: mpsc::Receiver<Arrival>,
    guest_lives: watch::Sender<()>,
) {
    let log = context.log.clone();
    let ended = tokio::select! {
        ended = drive(stack.clone(), wire) => ended,
        () = serve(stack, context, arrivals) => Ok(()),
    };
    if let Err(error) = ended {
        log.record(Event::failed(
            NetworkAction::Packet,
            "network_ended",
            error.to_string(),
        ));
    }
    drop(guest_lives);
}

/// Handles everything that the stack reports. Its tasks end when it is dropped.
async fn serve(
    stack: Stack,
    context: Arc<ConnectionContext>,
    mut arrivals: mpsc::Receiver<Arrival>,
) {
    let mut tasks = JoinSet::new();
    let lookups = Arc::new(Semaphore::new(MAX_LOOKUPS));
    loop {
        // Wait for the next arrival; meanwhile, remove finished tasks.
        let arrival = tokio::select! {
            arrival = arrivals.recv() => arrival,
            Some(_) = tasks.join_next() => continue,
        };

        match arrival {
            None => return,
            Some(Arrival::Connection(guest)) => {
                let context = context.clone();
                tasks.spawn(async move { context.serve(guest).await });
            }
            Some(Arrival::DnsQuery { from, message }) => {
                // The query is dropped if too many lookups are in progress.
                let Ok(permit) = lookups.clone().try_acquire_owned() else {
                    continue;
                };
                let Ok(slot) = context.connections.open_one() else {
                    continue;
                };
                let (context, stack) = (context.clone(), stack.clone());
                tasks.spawn(async move {
                    if let Some(answer) = context.name_server.answer(&message, false).await {
                        stack.send_dns_answer(from, &answer);
                    }
                    drop((permit, slot));
                });
            }
            Some(Arrival::Rejected(rejected)) => context.record_rejected(rejected),
        }
    }
}
