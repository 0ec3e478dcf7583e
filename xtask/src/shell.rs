//! Other programs, run with their command line shown.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, bail};

/// The workspace's root directory.
pub(crate) fn root() -> anyhow::Result<PathBuf> {
    let manifest = PathBuf::from(env!("CARGO_MANIFEST_DIR"));

    manifest
        .parent()
        .map(PathBuf::from)
        .context("xtask's directory has no parent, which would be the workspace's root")
}

/// The cargo that runs this program.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    // Others look for programs in `target`, so they must be built there.
    command
        .env("CARGO_TARGET_DIR", "target")
        .env_remove("CARGO_BUILD_TARGET");

    command
}

/// Prints a command, runs it, and prints how long it took.
///
/// # Errors
/// Fails if the command cannot be started, or does not exit with success.
pub(crate) fn run(command: &mut Command) -> anyhow::Result<()> {
    let words: Vec<_> = std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(OsStr::to_string_lossy)
        .collect();
    let line = words.join(" ");
    eprintln!("$ {line}");

    let start = Instant::now();
    let status = command
        .status()
        .with_context(|| format!("`{line}` could not be started"))?;
    if !status.success() {
        bail!("`{line}` failed: {status}");
    }

    eprintln!("  ({:.1} s)", start.elapsed().as_secs_f32());

    Ok(())
}
