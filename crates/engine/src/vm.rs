use std::time::Duration;

use fumehood_qemu::{Event as QmpEvent, Process, Qmp};
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::channel::ChannelError;
use crate::console::Console;
use crate::error::{Error, ErrorKind};

/// Lines of the guest's console that go into an error.
const LAST_WORDS: usize = 8;

/// Listens to QEMU's monitor while the VM lives, for the reason of a shutdown.
#[derive(Debug)]
struct Monitor {
    events: mpsc::Receiver<QmpEvent>,
    task: JoinHandle<()>,
}

impl Monitor {
    fn watch(socket: UnixStream) -> Self {
        let (sender, events) = mpsc::channel(8);
        let task = tokio::spawn(async move {
            // A monitor that fails costs evidence only; the process itself is watched elsewhere.
            let Ok((_qmp, mut incoming)) = Qmp::connect(socket).await else {
                return;
            };
            while let Some(event) = incoming.recv().await {
                if event.event == "SHUTDOWN" {
                    let _ = sender.try_send(event);
                }
            }
        });
        Self { events, task }
    }

    fn shutdown_reason(&mut self) -> Option<String> {
        let event = self.events.try_recv().ok()?;
        event.data.get("reason")?.as_str().map(str::to_owned)
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A running VM. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct Vm {
    process: Process,
    console: Console,
    monitor: Monitor,
    /// From the request to start QEMU to the agent's greeting.
    pub(crate) boot: Duration,
}

impl Vm {
    /// A QEMU that has been started, with our ends of its console and its monitor.
    pub(crate) fn new(process: Process, console: UnixStream, monitor: UnixStream) -> Self {
        let (console, monitor) = (Console::drain(console), Monitor::watch(monitor));
        Self {
            process,
            console,
            monitor,
            boot: Duration::ZERO,
        }
    }

    /// Ends it; returns how long that took.
    pub(crate) async fn end(self) -> Duration {
        self.process.kill().await
    }

    /// The end of its console, to be added to a sentence.
    pub(crate) fn last_words(&self) -> String {
        match self.console.last_words(LAST_WORDS).as_str() {
            "" => String::new(),
            words => format!("; its console ended with:\n{words}"),
        }
    }

    /// Waits until QEMU ends by itself.
    pub(crate) async fn ended(&mut self) {
        let _ = self.process.wait().await;
    }

    /// Ends it and tells what is known about why it was lost.
    pub(crate) async fn post_mortem(mut self) -> String {
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
        let known = known.join("; ") + &self.last_words();
        let _ = self.process.kill().await;
        known
    }

    /// Ends it and tells why it did not start.
    pub(crate) async fn stillborn(self, error: &ChannelError) -> Error {
        let known = self.post_mortem().await;
        Error::new(
            ErrorKind::Boot,
            format!("the VM did not start: {error}; {known}"),
        )
    }
}
