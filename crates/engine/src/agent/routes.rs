use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use fumehood_protocol::{Attached, Complete, ErrorMessage, OpId, Quiesced, Response, Stream};
use tokio::sync::{Semaphore, mpsc, watch};

/// Maximum length of a line from an agent, in bytes: a 64 KiB chunk with every byte escaped to six, and the rest of
/// the message.
pub(crate) const LINE_BYTES: usize = 512 * 1024;

/// Maximum length of a raw frame in both directions, in bytes.
pub(crate) const FRAME_BYTES: u64 = 64 * 1024;

/// Maximum output of one operation that is in flight or waits to be taken, in bytes. It bounds the memory that a guest
/// can use on this host, and is large enough that a fast reader never makes the guest wait.
pub(crate) const WINDOW_BYTES: u64 = 1024 * 1024;

/// The same for operations whose output the agent stores for clients that attach again: not more than it stores.
pub(crate) const KEPT_WINDOW_BYTES: u64 = 256 * 1024;

/// Why the connection to an agent ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ChannelError {
    /// The agent closed the connection.
    #[error("the connection to the guest's agent ended")]
    Closed,
    /// The guest violated the protocol: it is hostile or damaged, and nothing more is read from it.
    #[error("the guest violated the protocol: {0}")]
    Violation(String),
    /// The agent did not answer in time.
    #[error("the guest's agent did not answer within {} s", .0.as_secs())]
    Silent(Duration),
}

/// An event of an operation.
#[derive(Debug)]
pub(crate) enum OperationEvent {
    Output(Stream, Bytes),
    /// The program was started, with this process id in the guest.
    Started(i32),
    Queued,
    Attached(Attached),
    /// A part of the answer, and the memory that it took in bytes. More follows.
    Item(Response, usize),
    Complete(Complete),
    Refused(ErrorMessage),
    Detached,
    /// The answer, or its last part.
    Answer(Response),
    Quiesced(Quiesced),
    Refreshed,
    Pong,
}

pub(crate) type Sender = mpsc::UnboundedSender<Result<OperationEvent, ChannelError>>;

/// What the reader knows of one operation. Everything that the guest sends is checked against it.
#[derive(Debug)]
pub(crate) struct Route {
    pub(crate) sender: Sender,
    /// Bytes of output that the guest may still send.
    pub(crate) window: u64,
    pub(crate) next_seq: u64,
    /// Pieces of output that wait to be taken.
    pub(crate) waiting: usize,
    /// Bytes of other answers that wait to be taken.
    pub(crate) item_bytes: usize,
    /// Bytes of input that may be sent.
    pub(crate) input: Arc<Semaphore>,
    /// Changes of files arrived too fast and were dropped, and the operation was informed.
    pub(crate) overflows: bool,
}

impl Drop for Route {
    /// Wakes tasks that wait to send input.
    fn drop(&mut self) {
        self.input.close();
    }
}

/// The operations of one connection.
#[derive(Debug, Default)]
pub(crate) struct Routes {
    pub(crate) open: HashMap<OpId, Route>,
    /// Set once, when the connection ends.
    pub(super) ended: watch::Sender<Option<ChannelError>>,
}

impl Routes {
    /// Ends the connection and all operations. The first error is kept as the reason.
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
