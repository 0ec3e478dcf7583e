//! The documentation's links and code blocks.

use std::path::Path;
use std::process::Command;

use crate::setup::Programs;
use crate::shell::run;

/// The script that checks the pages. It needs no package.
const CHECK: &str = "tests/docs/check.py";

/// Checks links, syntax and the kinds of code blocks.
///
/// # Errors
/// Fails if a page breaks a rule.
pub(super) fn check() -> anyhow::Result<()> {
    run(Command::new("python3").args([CHECK, "--static"]))
}

/// Runs the shell and Python blocks of all pages in real VMs, with the SDK of this Python.
///
/// # Errors
/// Fails if a block fails.
pub(super) fn run_blocks(python: &Path, programs: &Programs) -> anyhow::Result<()> {
    run(Command::new("python3")
        .args([CHECK, "--run", "--fumehood"])
        .arg(&programs.fumehood)
        .arg("--sdk-python")
        .arg(python))
}
