use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::Instant;

/// The signals by which a user or a supervisor ends a command.
pub(crate) struct Interrupts([Signal; 3]);

/// What such a signal asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asked {
    /// Ctrl-C: that what goes on be ended.
    Interrupt,
    /// That the command itself end.
    End,
}

impl Interrupts {
    pub(crate) fn new() -> anyhow::Result<Self> {
        let kinds = [
            SignalKind::interrupt(),
            SignalKind::terminate(),
            SignalKind::hangup(),
        ];
        let [a, b, c] = kinds.map(signal);
        Ok(Self([a?, b?, c?]))
    }

    /// Waits for the next one.
    pub(crate) async fn next(&mut self) -> Asked {
        let [a, b, c] = &mut self.0;
        tokio::select! {
            _ = a.recv() => Asked::Interrupt,
            _ = b.recv() => Asked::End,
            _ = c.recv() => Asked::End,
        }
    }
}

/// Waits for things while the user may interrupt: the first interrupt cancels the run, which then
/// has a while to tell its end; the second one, or the end of that while, gives it up.
pub(crate) struct Patience<'a> {
    interrupts: &'a mut Interrupts,
    cancel: Box<dyn Fn() + Send + 'a>,
    until: Option<Instant>,
    /// The command itself is to end.
    pub(crate) is_last: bool,
}

/// How long a cancelled run may take to be told: the guest's own steps and a margin.
const CANCEL_DEADLINE: Duration = Duration::from_secs(20);

impl<'a> Patience<'a> {
    pub(crate) fn new(interrupts: &'a mut Interrupts, cancel: impl Fn() + Send + 'a) -> Self {
        Self {
            interrupts,
            cancel: Box::new(cancel),
            until: None,
            is_last: false,
        }
    }

    /// The value, or `None` when it is to be given up.
    pub(crate) async fn with<T>(&mut self, awaited: impl Future<Output = T>) -> Option<T> {
        tokio::pin!(awaited);
        loop {
            let until = self.until;
            let given_up = async {
                match until {
                    Some(until) => tokio::time::sleep_until(until).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                value = &mut awaited => return Some(value),
                asked = self.interrupts.next() => {
                    self.is_last |= asked == Asked::End;
                    if self.until.is_some() {
                        return None;
                    }
                    (self.cancel)();
                    self.until = Some(Instant::now() + CANCEL_DEADLINE);
                }
                () = given_up => return None,
            }
        }
    }
}
