use bytes::Bytes;
use fumehood_protocol::SignalName;
use tokio::sync::{mpsc, watch};

use crate::agent::InputLine;
use crate::error::{Error, ErrorKind};

/// What a caller asks of an operation that goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Control {
    Cancel,
    Signal(i32),
    Resize(u16, u16),
    Detach,
}

/// The driver's side of an operation's controls.
#[derive(Debug)]
pub(crate) struct Controls {
    pub(crate) asked: mpsc::UnboundedReceiver<Control>,
    /// Told when the operation has begun.
    pub(crate) input: watch::Sender<Option<InputLine>>,
}

impl Controls {
    /// The next wish; waits for ever when nobody can have one any more.
    pub(crate) async fn next(&mut self) -> Control {
        match self.asked.recv().await {
            Some(control) => control,
            None => std::future::pending().await,
        }
    }

    /// Waits until it is to be cancelled. What else is asked before it has begun comes to nothing.
    pub(crate) async fn cancelled(&mut self) {
        while self.next().await != Control::Cancel {}
    }
}

/// Both sides of an operation's controls.
pub(crate) fn controls() -> (RunControl, Input, Controls) {
    let (ask, asked) = mpsc::unbounded_channel();
    let (input, line) = watch::channel(None);
    (RunControl(ask), Input(line), Controls { asked, input })
}

/// Ends a run from anywhere, or sends it signals. Cheap to clone.
#[derive(Debug, Clone)]
pub struct RunControl(mpsc::UnboundedSender<Control>);

impl RunControl {
    /// Asks the run to end: its program gets SIGINT, then SIGTERM, then SIGKILL. The run still
    /// tells its outcome.
    pub fn cancel(&self) {
        self.ask(Control::Cancel);
    }

    /// Sends a signal, by its number, to the program's process group.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`]: 1 to 31 are allowed.
    pub fn signal(&self, signal: i32) -> Result<(), Error> {
        let known = SignalName::Number(signal).number();
        known.map_err(|error| Error::new(ErrorKind::Invalid, error.message))?;
        self.ask(Control::Signal(signal));
        Ok(())
    }

    /// Gives its terminal another size, in characters.
    pub fn resize(&self, rows: u16, cols: u16) {
        self.ask(Control::Resize(rows, cols));
    }

    pub(crate) fn ask(&self, control: Control) {
        // An operation that has ended wants nothing.
        let _ = self.0.send(control);
    }
}

/// A program's standard input. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Input(watch::Receiver<Option<InputLine>>);

impl Input {
    /// Sends bytes, as fast as the program reads them: no more than 256 KiB are on their way.
    ///
    /// # Errors
    /// [`ErrorKind::Lost`]: the program has ended, or was never started.
    pub async fn write(&mut self, bytes: impl Into<Bytes>) -> Result<(), Error> {
        let line = self.line().await;
        match line {
            Some(line) if line.send(bytes.into()).await => Ok(()),
            _ => Err(Error::new(
                ErrorKind::Lost,
                "the program has ended, and takes no more input",
            )),
        }
    }

    /// Says that nothing follows: the program reads the end of its input.
    pub async fn close(&mut self) {
        if let Some(line) = self.line().await {
            line.end();
        }
    }

    async fn line(&mut self) -> Option<InputLine> {
        self.0.wait_for(Option::is_some).await.ok()?.clone()
    }
}
