//! Debian packages by mmdebstrap: from the host's mirror where it is Debian, with its apt's settings.

use std::path::Path;
use std::time::Duration;

use super::apt::{self, Mirrors};
use super::program::{Program, require_program};
use crate::Error;

/// What mmdebstrap is asked for.
pub(crate) struct Request<'a> {
    /// What for, in an error's words.
    pub(crate) task: &'static str,
    /// `essential` installs, `extract` only unpacks.
    pub(crate) variant: &'static str,
    /// Packages, by commas.
    pub(crate) include: &'a str,
    pub(crate) suite: &'a str,
    /// Further options.
    pub(crate) options: &'a [String],
}

/// Refuses, with the mend, when the programs are not there.
pub(crate) fn check() -> Result<(), Error> {
    require_program(
        "mmdebstrap",
        "the guest is made of Debian packages",
        "mmdebstrap",
    )?;

    if !rustix::process::geteuid().is_root() {
        require_program(
            "newuidmap",
            "an ordinary user installs packages into a tree",
            "uidmap",
        )?;
    }

    Ok(())
}

/// Makes a tar archive of the tree that holds the packages.
pub(crate) fn run(
    request: &Request<'_>,
    archive: &Path,
    timeout: Duration,
    on_line: &mut dyn FnMut(&str),
) -> Result<(), Error> {
    check()?;
    let settings = apt::read_settings()?;
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
