use std::time::Duration;

use fumehood_qemu::{Event as QmpEvent, Process, Qmp, QmpError};
use serde_json::json;
use tokio::net::UnixStream;
use tokio::sync::mpsc;

use super::console::Console;
use crate::agent::ChannelError;
use crate::error::{Error, ErrorKind};
use crate::host::Isolation;

/// Lines of the guest's console that go into an error.
const CONSOLE_TAIL_LINES: usize = 8;

/// QEMU's monitor: commands, and the reason of a shutdown. None where QEMU had ended before it was
/// asked; its own end then tells why.
#[derive(Debug)]
pub(crate) struct Monitor(Option<(Qmp, mpsc::Receiver<QmpEvent>)>);

impl Monitor {
    /// QEMU need not have come up yet: it reads the first command when it has.
    pub(crate) async fn open(socket: UnixStream) -> Self {
        Self(Qmp::connect(socket).await.ok())
    }

    fn shutdown_reason(&mut self) -> Option<String> {
        let (_, events) = self.0.as_mut()?;
        loop {
            let event = events.try_recv().ok()?;
            if event.event == "SHUTDOWN" {
                return event.data.get("reason")?.as_str().map(str::to_owned);
            }
        }
    }
}

/// A running VM. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct Vm {
    process: Process,
    console: Console,
    monitor: Monitor,
    /// From asking for it to its agent's word that it is ready.
    pub(crate) start: Duration,
    /// Who its guest was told to be: machine id and name.
    pub(crate) identity: (String, String),
}

impl Vm {
    /// A QEMU that has been started, with our ends of its console and its monitor.
    pub(crate) fn new(process: Process, console: UnixStream, monitor: Monitor) -> Self {
        Self {
            process,
            console: Console::drain(console),
            monitor,
            start: Duration::ZERO,
            identity: Default::default(),
        }
    }

    /// Its monitor.
    ///
    /// # Errors
    /// [`QmpError::Closed`].
    pub(crate) fn qmp(&self) -> Result<&Qmp, QmpError> {
        self.monitor
            .0
            .as_ref()
            .map(|(qmp, _)| qmp)
            .ok_or(QmpError::Closed)
    }

    /// What the human monitor says to a command.
    ///
    /// # Errors
    /// [`ErrorKind::Lost`].
    pub(crate) async fn monitor(&self, command: &str) -> Result<String, Error> {
        let arguments = json!({ "command-line": command });
        let asked = match self.qmp() {
            Ok(qmp) => qmp.execute("human-monitor-command", arguments).await,
            Err(error) => Err(error),
        };
        let said = asked.map_err(|e| Error::new(ErrorKind::Lost, e.to_string()))?;
        Ok(said.as_str().unwrap_or_default().to_string())
    }

    /// The walls around QEMU.
    pub(crate) fn isolation(&self) -> Isolation {
        Isolation::without(self.process.missing())
    }

    /// The number of QEMU's process.
    pub(crate) fn process_id(&self) -> u32 {
        self.process.id()
    }

    /// Ends it; returns how long that took.
    pub(crate) async fn end(self) -> Duration {
        self.process.kill().await
    }

    /// The end of its console, to be added to a sentence.
    pub(crate) fn console_tail(&self) -> String {
        match self.console.console_tail(CONSOLE_TAIL_LINES).as_str() {
            "" => String::new(),
            words => format!("; its console ended with:\n{words}"),
        }
    }

    /// Waits until QEMU ends by itself.
    pub(crate) async fn ended(&mut self) {
        let _ = self.process.wait().await;
    }

    /// Ends it and tells what is known about why it was lost.
    pub(crate) async fn diagnose(mut self) -> String {
        const PATIENCE: Duration = Duration::from_millis(500);
        let ended = tokio::time::timeout(PATIENCE, self.process.wait()).await;
        let mut known = Vec::new();
        match &ended {
            Ok(Ok(status)) => known.push(format!("QEMU ended ({status})")),
            Ok(Err(error)) => known.push(format!("QEMU's end is not known: {error}")),
            Err(_) => known.push("QEMU was still running and was killed".to_string()),
        }
        if let Some(reason) = self.monitor.shutdown_reason() {
            known.push(format!("shutdown reason: {reason}"));
        }
        if ended.is_ok() {
            let complaint = self.process.complaint();
            if !complaint.is_empty() {
                known.push(format!("QEMU said: {complaint}"));
            }
        }
        let known = known.join("; ") + &self.console_tail();
        let _ = self.process.kill().await;
        known
    }

    /// Ends it and tells why it did not start.
    pub(crate) async fn startup_error(self, error: &ChannelError) -> Error {
        let known = self.diagnose().await;
        Error::new(
            ErrorKind::Boot,
            format!("the VM did not start: {error}; {known}"),
        )
    }
}
