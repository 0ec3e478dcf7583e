//! Installs Debian packages with mmdebstrap. On a Debian host it uses the host's mirror and its apt's
//! settings.

use std::path::Path;
use std::time::Duration;

use super::apt::{self, Mirrors};
use super::program::{Program, require_program};
use crate::Error;

/// A run of mmdebstrap.
pub(crate) struct Request<'a> {
    /// The task, as it appears in error messages.
    pub(crate) task: &'static str,
    /// `essential` installs the packages, `extract` only unpacks them.
    pub(crate) variant: &'static str,
    /// The packages, separated by commas.
    pub(crate) include: &'a str,
    pub(crate) suite: &'a str,
    /// Additional options.
    pub(crate) options: &'a [String],
}

/// Returns an error that names the missing package if a required program is not installed.
pub(crate) fn check() -> Result<(), Error> {
    require_program(
        "mmdebstrap",
        "required to install the guest's Debian packages",
        "mmdebstrap",
    )?;

    if !rustix::process::geteuid().is_root() {
        require_program(
            "newuidmap",
            "required to install packages as an ordinary user",
            "uidmap",
        )?;
    }

    Ok(())
}

/// Creates a tar archive of a tree that contains the packages.
pub(crate) fn run(
    request: &Request<'_>,
    archive: &Path,
    timeout: Duration,
    on_line: &mut dyn FnMut(&str),
) -> Result<(), Error> {
    check()?;
    let settings = apt::read_settings()?;

    // The mirrors come last; without any, mmdebstrap uses Debian's own.
    Program::new(request.task, "mmdebstrap", timeout)
        .args([
            "--mode=auto",
            "--components=main",
            "--architectures=amd64",
            "--format=tar",
        ])
        .arg(format!("--variant={}", request.variant))
        .arg(format!("--include={}", request.include))
        .args(settings.iter().map(|line| format!("--aptopt={line}")))
        .args(request.options)
        .arg(request.suite)
        .arg(archive)
        .args(Mirrors::from_host().source_lines(request.suite))
        .run(on_line)
}
