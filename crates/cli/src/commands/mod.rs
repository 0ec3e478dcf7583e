//! One file for each command.

pub(crate) mod agent;
pub(crate) mod doctor;
pub(crate) mod generate;
pub(crate) mod image;
pub(crate) mod keys;
pub(crate) mod layer;
pub(crate) mod mcp;
pub(crate) mod policy;
pub(crate) mod repl;
pub(crate) mod run;
pub(crate) mod serve;
mod served;
pub(crate) mod shell;
pub(crate) mod template;

use std::fmt::Display;
use std::io::{self, Write};

use anyhow::Context;
use tokio::runtime::Runtime;

/// The runtime of a command that talks to VMs.
fn runtime() -> anyhow::Result<Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("no runtime could be started")
}

/// An environment variable as the words give it: `KEY=VALUE`, or `KEY` for the value that it has here.
fn environment(variable: &str) -> anyhow::Result<(&str, String)> {
    if let Some((name, value)) = variable.split_once('=') {
        return Ok((name, value.to_owned()));
    }
    let value = std::env::var(variable)
        .with_context(|| format!("-e {variable}: it has no value here; use -e {variable}=VALUE"))?;
    Ok((variable, value))
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
