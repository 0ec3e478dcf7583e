use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use fumehood_protocol::{Attached, Complete, ErrorMessage, OpId, Response, Stream};
use tokio::sync::{Semaphore, mpsc, watch};

/// The longest line taken from an agent, in bytes: a 64 KiB chunk with every byte escaped to six,
/// and room beside it.
pub(crate) const LINE_BYTES: usize = 512 * 1024;

/// The longest raw frame, in bytes, in both directions.
pub(crate) const FRAME_BYTES: u64 = 64 * 1024;

/// Output of one operation that may be on its way or waiting to be taken, in bytes. Bounds what a
/// guest can make this host hold; large enough that a fast reader never makes it wait.
pub(crate) const WINDOW_BYTES: u64 = 1024 * 1024;

/// The same where the agent keeps output for who attaches again: no more is on its way than it keeps.
pub(crate) const KEPT_WINDOW_BYTES: u64 = 256 * 1024;

/// Why a conversation with an agent ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ChannelError {
    /// The other side is gone.
    #[error("the connection to the guest's agent ended")]
    Closed,
    /// The guest broke the protocol: it is hostile or damaged, and is not listened to any more.
    #[error("the guest broke the protocol: {0}")]
    Violation(String),
    /// No answer in time.
    #[error("the guest's agent did not answer within {} s", .0.as_secs())]
    Silent(Duration),
}

/// What an operation tells.
#[derive(Debug)]
pub(crate) enum OperationEvent {
    Output(Stream, Bytes),
    /// With its process id in the guest.
    Started(i32),
    Queued,
    Attached(Attached),
    /// More comes. With the bytes that it took.
    Item(Response, usize),
    Complete(Complete),
    Refused(ErrorMessage),
    Detached,
    /// Nothing more comes.
    Answer(Response),
    Quiesced,
    Refreshed,
    Pong,
}

pub(crate) type Sender = mpsc::UnboundedSender<Result<OperationEvent, ChannelError>>;

/// What the router knows of one operation. All of it is checked against what the guest sends.
#[derive(Debug)]
pub(crate) struct Route {
    pub(crate) sender: Sender,
    /// Bytes that the guest may still send.
    pub(crate) window: u64,
    pub(crate) next_seq: u64,
    /// Pieces of output that wait to be taken.
    pub(crate) waiting: usize,
    /// Bytes of other answers that wait to be taken.
    pub(crate) item_bytes: usize,
    /// Bytes of input that may be sent.
    pub(crate) input: Arc<Semaphore>,
    /// Changes that came too fast were left out, and that was told.
    pub(crate) overflows: bool,
}

impl Drop for Route {
    /// Who waits to send input need not wait any more.
    fn drop(&mut self) {
        self.input.close();
    }
}

#[derive(Debug, Default)]
pub(crate) struct Routes {
    pub(crate) open: HashMap<OpId, Route>,
    /// Set once: nothing is heard any more.
    pub(super) ended: watch::Sender<Option<ChannelError>>,
}

impl Routes {
    /// Nothing is heard any more, for this reason unless there is one already.
    pub(crate) fn end(&mut self, error: ChannelError) {
        for (_, route) in self.open.drain() {
            let _ = route.sender.send(Err(error.clone()));
        }
        if self.ended.borrow().is_none() {
            self.ended.send_replace(Some(error));
        }
    }
}

pub(crate) type SharedRoutes = Arc<Mutex<Routes>>;

pub(crate) fn lock(routes: &SharedRoutes) -> MutexGuard<'_, Routes> {
    routes.lock().unwrap_or_else(PoisonError::into_inner)
}
