use std::sync::Arc;

use fumehood_gateway::Event as NetworkEvent;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;

use super::event::Event;
use crate::network::Served;

/// What passes on a network's events. They are passed on no more when it is dropped.
#[derive(Debug)]
pub(crate) struct Telling {
    over: Arc<Notify>,
    task: JoinHandle<()>,
}

impl Telling {
    /// Starts to forward what happens on this network as events of a run.
    pub(crate) fn start(served: &Served, events: mpsc::Sender<Event>) -> Self {
        let over = Arc::new(Notify::new());
        let task = tell(served.events(), served.urls(), events, over.clone());
        Self {
            over,
            task: tokio::spawn(task),
        }
    }

    /// Passes on what has come until now, and ends.
    pub(crate) async fn finish(mut self) {
        self.over.notify_one();
        let _ = (&mut self.task).await;
    }
}

impl Drop for Telling {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn tell(
    mut happened: mpsc::Receiver<NetworkEvent>,
    urls: Vec<String>,
    events: mpsc::Sender<Event>,
    over: Arc<Notify>,
) {
    for url in urls {
        let _ = events.send(Event::Exposed { url }).await;
    }
    loop {
        tokio::select! {
            biased;
            next = happened.recv() => match next {
                Some(event) => {
                    let _ = events.send(Event::Network(Box::new(event))).await;
                }
                None => return,
            },
            // All that had come before has been passed on.
            () = over.notified() => return,
        }
    }
}
