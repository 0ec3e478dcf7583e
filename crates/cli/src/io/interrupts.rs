//! Signals that interrupt or end this command, and waiting that respects them.

use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::Instant;

/// The time that a cancelled run has to report its outcome: the guest's own steps of cancelling, and a margin.
const CANCEL_DEADLINE: Duration = Duration::from_secs(20);

/// Receives SIGINT, SIGTERM and SIGHUP.
pub(crate) struct Interrupts {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

/// The request that a signal makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Interrupt {
    /// Ctrl-C: cancel the running code.
    CancelRun,
    /// End the whole command.
    EndCommand,
}

impl Interrupts {
    /// Installs the signal handlers.
    ///
    /// # Errors
    /// A handler cannot be installed.
    pub(crate) fn new() -> anyhow::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// Waits for the next signal.
    pub(crate) async fn next(&mut self) -> Interrupt {
        tokio::select! {
            _ = self.interrupt.recv() => Interrupt::CancelRun,
            _ = self.terminate.recv() => Interrupt::EndCommand,
            _ = self.hangup.recv() => Interrupt::EndCommand,
        }
    }
}

/// Waits for futures of a run while the user may interrupt it. The first signal cancels the run, which then has
/// [`CANCEL_DEADLINE`] to end its program. A second signal, or the deadline, abandons it.
pub(crate) struct CancelGuard<'a> {
    interrupts: &'a mut Interrupts,
    cancel: Box<dyn Fn() + Send + 'a>,
    deadline: Option<Instant>,
    was_interrupted: bool,
    ends_command: bool,
}

impl<'a> CancelGuard<'a> {
    /// Creates a guard that calls `cancel` at the first signal.
    pub(crate) fn new(interrupts: &'a mut Interrupts, cancel: impl Fn() + Send + 'a) -> Self {
        Self {
            interrupts,
            cancel: Box::new(cancel),
            deadline: None,
            was_interrupted: false,
            ends_command: false,
        }
    }

    /// Returns whether a signal asked to end the whole command.
    pub(crate) fn ends_command(&self) -> bool {
        self.ends_command
    }

    /// Returns whether any signal has arrived.
    pub(crate) fn was_interrupted(&self) -> bool {
        self.was_interrupted
    }

    /// The program has ended, and what follows may take its time. The next signal cancels that, as the first one did the
    /// program.
    pub(crate) fn program_ended(&mut self) {
        self.deadline = None;
    }

    /// Waits for `future`. Returns `None` if the run was abandoned.
    pub(crate) async fn wait<T>(&mut self, future: impl Future<Output = T>) -> Option<T> {
        tokio::pin!(future);

        loop {
            let deadline = self.deadline;
            let expired = async {
                match deadline {
                    Some(deadline) => tokio::time::sleep_until(deadline).await,
                    None => std::future::pending().await,
                }
            };

            tokio::select! {
                value = &mut future => return Some(value),
                interrupt = self.interrupts.next() => {
                    // The second signal abandons the run.
                    self.ends_command |= interrupt == Interrupt::EndCommand;
                    if self.deadline.is_some() {
                        return None;
                    }

                    // The first one cancels it, and starts the deadline.
                    (self.cancel)();
                    self.was_interrupted = true;
                    self.deadline = Some(Instant::now() + CANCEL_DEADLINE);
                }
                () = expired => return None,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_deadline_ends_with_the_program() {
        let mut interrupts = Interrupts::new().unwrap();
        let mut guard = CancelGuard {
            interrupts: &mut interrupts,
            cancel: Box::new(|| {}),
            deadline: Some(Instant::now() + CANCEL_DEADLINE),
            was_interrupted: true,
            ends_command: false,
        };

        let long = || tokio::time::sleep(2 * CANCEL_DEADLINE);
        assert_eq!(guard.wait(long()).await, None);
        guard.program_ended();
        assert_eq!(guard.wait(long()).await, Some(()));
        assert!(guard.was_interrupted());
    }
}
