use std::sync::Arc;

use fumehood_gateway::Event as NetworkEvent;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;

use super::event::Event;
use crate::network::ActiveNetwork;

/// Forwards the events of a network as events of a run. Dropping it stops that.
#[derive(Debug)]
pub(crate) struct NetworkEventForwarder {
    stop: Arc<Notify>,
    task: JoinHandle<()>,
}

impl NetworkEventForwarder {
    /// Starts to forward: first the URLs of the exposed ports, then all events.
    pub(crate) fn start(network: &ActiveNetwork, events: mpsc::Sender<Event>) -> Self {
        let stop = Arc::new(Notify::new());
        let task = forward(network.events(), network.urls(), events, stop.clone());
        Self {
            stop,
            task: tokio::spawn(task),
        }
    }

    /// Forwards all events until now, and stops.
    pub(crate) async fn finish(mut self) {
        self.stop.notify_one();
        let _ = (&mut self.task).await;
    }
}

impl Drop for NetworkEventForwarder {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn forward(
    mut network_events: mpsc::Receiver<NetworkEvent>,
    urls: Vec<String>,
    events: mpsc::Sender<Event>,
    stop: Arc<Notify>,
) {
    for url in urls {
        let _ = events.send(Event::Exposed { url }).await;
    }

    loop {
        tokio::select! {
            biased;
            next = network_events.recv() => match next {
                Some(event) => {
                    let _ = events.send(Event::Network(Box::new(event))).await;
                }
                None => return,
            },

            // All earlier events have been forwarded.
            () = stop.notified() => return,
        }
    }
}
