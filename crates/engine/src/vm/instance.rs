use std::time::Duration;

use fumehood_qemu::{DescriptorIdentity, Event as QmpEvent, Process, Qmp, QmpError};
use serde_json::json;
use tokio::net::UnixStream;
use tokio::sync::mpsc;

use super::console::Console;
use crate::agent::ChannelError;
use crate::error::{Error, ErrorKind};
use crate::host::Isolation;

/// Number of lines of the guest's console in an error message.
const CONSOLE_TAIL_LINES: usize = 8;

/// QEMU's monitor: commands, and the reason of a shutdown. None if QEMU ended before the connection was made; its exit
/// then says why.
#[derive(Debug)]
pub(crate) struct Monitor(Option<(Qmp, mpsc::Receiver<QmpEvent>)>);

impl Monitor {
    /// Connects to the monitor. QEMU may still be starting: it reads the first command later.
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

/// The identities of the descriptors that QEMU was passed, by which they are recognized in its process.
#[derive(Debug, Clone)]
pub(crate) struct PassedIdentities {
    /// Disks and sockets, in an order that depends only on the machine.
    pub(crate) kept: Vec<DescriptorIdentity>,
    /// Files that QEMU reads only at its start: kernel, initial file system, memories.
    pub(crate) read: Vec<DescriptorIdentity>,
}

/// A running VM. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct Vm {
    process: Process,
    /// The descriptors that it was passed.
    passed: PassedIdentities,
    console: Console,
    monitor: Monitor,
    /// Time from the request for the VM until its agent was ready.
    pub(crate) start: Duration,
    /// Machine id and host name of the guest.
    pub(crate) identity: (String, String),
}

impl Vm {
    /// Takes a QEMU process that was started, its descriptors, and the host's ends of its console and
    /// monitor.
    pub(crate) fn new(
        process: Process,
        passed: PassedIdentities,
        console: UnixStream,
        monitor: Monitor,
    ) -> Self {
        Self {
            process,
            passed,
            console: Console::drain(console),
            monitor,
            start: Duration::ZERO,
            identity: Default::default(),
        }
    }

    /// Returns the monitor.
    ///
    /// # Errors
    /// Returns [`QmpError::Closed`].
    pub(crate) fn qmp(&self) -> Result<&Qmp, QmpError> {
        self.monitor
            .0
            .as_ref()
            .map(|(qmp, _)| qmp)
            .ok_or(QmpError::Closed)
    }

    /// Runs a command of the human monitor; returns its output.
    ///
    /// # Errors
    /// Returns [`ErrorKind::Lost`].
    pub(crate) async fn monitor(&self, command: &str) -> Result<String, Error> {
        let arguments = json!({ "command-line": command });
        let result = match self.qmp() {
            Ok(qmp) => qmp.execute("human-monitor-command", arguments).await,
            Err(error) => Err(error),
        };

        let output = result.map_err(|e| Error::new(ErrorKind::Lost, e.to_string()))?;
        Ok(output.as_str().unwrap_or_default().to_string())
    }

    /// Returns the isolation layers around QEMU.
    pub(crate) fn isolation(&self) -> Isolation {
        Isolation::without(self.process.missing_layers())
    }

    /// Returns the process id of QEMU.
    pub(crate) fn process_id(&self) -> u32 {
        self.process.id()
    }

    /// Returns the descriptors that QEMU was passed.
    pub(crate) fn passed(&self) -> &PassedIdentities {
        &self.passed
    }

    /// Ends the VM; returns how long that took.
    pub(crate) async fn end(self) -> Duration {
        self.process.kill().await
    }

    /// Returns the end of the console, as a suffix for a sentence.
    pub(crate) fn console_tail(&self) -> String {
        match self.console.tail(CONSOLE_TAIL_LINES).as_str() {
            "" => String::new(),
            lines => format!("; its console ended with:\n{lines}"),
        }
    }

    /// Waits until QEMU exits.
    pub(crate) async fn ended(&mut self) {
        let _ = self.process.wait().await;
    }

    /// Ends the VM; returns a diagnosis of why it was lost.
    pub(crate) async fn diagnose(mut self) -> String {
        const EXIT_TIMEOUT: Duration = Duration::from_millis(500);

        // QEMU may be exiting at this moment.
        let exit = tokio::time::timeout(EXIT_TIMEOUT, self.process.wait()).await;
        let mut facts = Vec::new();

        match &exit {
            Ok(Ok(status)) => facts.push(format!("QEMU exited ({status})")),
            Ok(Err(error)) => facts.push(format!("QEMU's exit status is unknown: {error}")),
            Err(_) => facts.push("QEMU was still running and was killed".to_string()),
        }

        if let Some(reason) = self.monitor.shutdown_reason() {
            facts.push(format!("shutdown reason: {reason}"));
        }

        if exit.is_ok() {
            let stderr = self.process.stderr_tail();
            if !stderr.is_empty() {
                facts.push(format!("QEMU's standard error: {stderr}"));
            }
        }

        let diagnosis = facts.join("; ") + &self.console_tail();
        let _ = self.process.kill().await;

        diagnosis
    }

    /// Ends the VM; returns the error of its failed start.
    pub(crate) async fn startup_error(self, error: &ChannelError) -> Error {
        let diagnosis = self.diagnose().await;
        let message = format!("the VM did not start: {error}; {diagnosis}");
        Error::new(ErrorKind::Boot, message)
    }
}
