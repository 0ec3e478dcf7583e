use bytes::Bytes;
use fumehood_protocol::SignalName;
use tokio::sync::{mpsc, watch};

use crate::agent::InputSender;
use crate::error::{Error, ErrorKind};

/// A request of a caller to an operation in progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Control {
    Cancel,
    Signal(i32),
    Resize(u16, u16),
    Detach,
}

/// The driver's side of the controls of an operation.
#[derive(Debug)]
pub(crate) struct Controls {
    pub(crate) requests: mpsc::UnboundedReceiver<Control>,
    /// Set when the operation has started.
    pub(crate) input: watch::Sender<Option<InputSender>>,
}

impl Controls {
    /// Returns the next request; waits forever if no caller is left.
    pub(crate) async fn next(&mut self) -> Control {
        match self.requests.recv().await {
            Some(control) => control,
            None => std::future::pending().await,
        }
    }

    /// Waits until the run is cancelled. Other requests have no effect while no operation is in progress.
    pub(crate) async fn cancelled(&mut self) {
        while self.next().await != Control::Cancel {}
    }
}

/// Creates both sides of the controls of an operation.
pub(crate) fn controls() -> (RunControl, Input, Controls) {
    let (sender, requests) = mpsc::unbounded_channel();
    let (input, receiver) = watch::channel(None);
    (
        RunControl(sender),
        Input(receiver),
        Controls { requests, input },
    )
}

/// Cancels a run from anywhere, or sends it signals. Cheap to clone.
#[derive(Debug, Clone)]
pub struct RunControl(mpsc::UnboundedSender<Control>);

impl RunControl {
    /// Cancels the run: its program gets SIGINT, then SIGTERM, then SIGKILL. The run still has an outcome.
    pub fn cancel(&self) {
        self.send(Control::Cancel);
    }

    /// Sends a signal, by its number, to the program's process group.
    ///
    /// # Errors
    /// Returns [`ErrorKind::Invalid`] unless the number is 1 to 31.
    pub fn signal(&self, signal: i32) -> Result<(), Error> {
        let known = SignalName::Number(signal).number();
        known.map_err(|error| Error::new(ErrorKind::Invalid, error.message))?;
        self.send(Control::Signal(signal));
        Ok(())
    }

    /// Resizes the program's terminal, in characters.
    pub fn resize(&self, rows: u16, cols: u16) {
        self.send(Control::Resize(rows, cols));
    }

    /// Waits until the task that drives the run has ended, also after the [`Run`](crate::Run) was dropped: its temporary
    /// files are removed then.
    pub async fn ended(&self) {
        self.0.closed().await;
    }

    pub(crate) fn send(&self, control: Control) {
        // An operation that has ended needs no controls.
        let _ = self.0.send(control);
    }
}

/// The standard input of a program. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Input(watch::Receiver<Option<InputSender>>);

impl Input {
    /// Sends bytes as fast as the program reads them: at most 256 KiB are in flight.
    ///
    /// # Errors
    /// Returns [`ErrorKind::Lost`] if the program has ended or was never started.
    pub async fn write(&mut self, bytes: impl Into<Bytes>) -> Result<(), Error> {
        match self.sender().await {
            Some(sender) if sender.send(bytes.into()).await => Ok(()),
            _ => {
                let message = "the program has ended and accepts no more input";
                Err(Error::new(ErrorKind::Lost, message))
            }
        }
    }

    /// Closes the input: the program reads end of file.
    pub async fn close(&mut self) {
        if let Some(sender) = self.sender().await {
            sender.end();
        }
    }

    async fn sender(&mut self) -> Option<InputSender> {
        self.0.wait_for(Option::is_some).await.ok()?.clone()
    }
}
