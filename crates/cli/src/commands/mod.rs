//! One file for each command.

pub(crate) mod agent;
pub(crate) mod doctor;
pub(crate) mod generate;
pub(crate) mod image;
pub(crate) mod run;
pub(crate) mod template;

use std::fmt::Display;
use std::io::{self, Write};

use anyhow::Context;
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// The runtime of a command that talks to VMs.
fn runtime() -> anyhow::Result<Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("no runtime could be started")
}

/// The signals by which a user or a supervisor ends a command.
struct Interrupts([Signal; 3]);

impl Interrupts {
    fn new() -> anyhow::Result<Self> {
        let kinds = [
            SignalKind::interrupt(),
            SignalKind::terminate(),
            SignalKind::hangup(),
        ];
        let [a, b, c] = kinds.map(signal);
        Ok(Self([a?, b?, c?]))
    }

    /// Waits for the next one.
    async fn next(&mut self) {
        let [a, b, c] = &mut self.0;
        tokio::select! {
            _ = a.recv() => {}
            _ = b.recv() => {}
            _ = c.recv() => {}
        }
    }
}

/// A line on standard output. Where nobody reads it, the error says so, and `main` knows that one.
fn say(line: &impl Display) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{line}")?;
    stdout.flush()
}

/// A line of fumehood's own on standard error. Where that is closed there is nobody to tell.
pub(crate) fn complain(line: &str) {
    let _ = writeln!(io::stderr(), "fumehood: {line}");
}
