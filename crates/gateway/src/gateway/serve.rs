use std::sync::Arc;

use tokio::net::UnixStream;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;

use crate::events::{Event, NetworkAction};
use crate::flow::World;
use crate::stack::{Arrival, Stack, drive};

/// Questions about names that are looked up at a time; further ones are lost, and asked again.
const LOOKUPS: usize = 64;

/// Sees to a guest for as long as it is there: with its wire, all of its connections end.
pub(super) async fn live(
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
