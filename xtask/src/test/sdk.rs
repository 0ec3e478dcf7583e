//! The Python SDK's tests, and the virtual environments that they need.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};

use crate::shell::run;

/// Where the SDK is.
const SDK: &str = "sdk/python";

/// The packages that its tests need, by version; they include the MCP client of the Rust tests.
const REQUIREMENTS: &str = "sdk/python/requirements-test.txt";

/// The environment of the tests. It is reused until its requirements change.
const TESTS: &str = "target/python";

/// An environment that each run makes from nothing, as a user does.
const FRESH: &str = "target/python-fresh";

/// The oldest Python version that the SDK supports.
const OLDEST: (u32, u32) = (3, 10);

/// Makes the environment of the tests with the current SDK in it, and returns its Python. Packages come from the index
/// that pip is configured for on this machine.
///
/// # Errors
/// Fails if Python is missing or too old, or a package cannot be installed.
pub(super) fn prepare() -> anyhow::Result<PathBuf> {
    let version = python_version()?;
    let requirements = format!("{version}\n{}", fs::read_to_string(REQUIREMENTS)?);
    let made_of = Path::new(TESTS).join("made-of");
    let python = python_of(TESTS)?;

    if fs::read_to_string(&made_of).ok().as_deref() != Some(&*requirements) {
        make(TESTS)?;
        run(pip(&python).args(["-r", REQUIREMENTS]))?;
        fs::write(&made_of, requirements)?;
    }

    run(pip(&python)
        .args(["--no-deps", "--no-build-isolation", "--force-reinstall"])
        .arg(format!("./{SDK}")))?;

    Ok(python)
}

/// Checks types, and runs the SDK's tests with real VMs and against the API's own description.
///
/// # Errors
/// Fails if a check or a test fails.
pub(super) fn test(python: &Path, environment: &[(&str, OsString)]) -> anyhow::Result<()> {
    run(Command::new(python).args(["-m", "mypy"]).current_dir(SDK))?;
    run(Command::new(python)
        .args(["-m", "pytest", "--durations", "10"])
        .current_dir(SDK)
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .env("FUMEHOOD_INDEX_TESTS", "1"))
}

/// Installs the SDK into a new environment, as a user does, and returns its Python.
///
/// # Errors
/// Fails if a package cannot be installed.
pub(super) fn install_fresh() -> anyhow::Result<PathBuf> {
    make(FRESH)?;
    let python = python_of(FRESH)?;
    run(pip(&python).arg(format!("./{SDK}")))?;

    Ok(python)
}

fn make(environment: &str) -> anyhow::Result<()> {
    run(Command::new("python3").args(["-m", "venv", "--clear", environment]))
}

fn python_of(environment: &str) -> anyhow::Result<PathBuf> {
    // The link is not resolved: Python finds its environment by the path that it was started with.
    Ok(std::path::absolute(environment)?.join("bin/python"))
}

fn pip(python: &Path) -> Command {
    let mut command = Command::new(python);
    command.args(["-m", "pip", "--disable-pip-version-check", "install", "-q"]);
    command
}

/// The version of `python3`.
///
/// # Errors
/// Fails if there is none, or it is older than [`OLDEST`].
fn python_version() -> anyhow::Result<String> {
    let code = "import sys; print('%d.%d.%d' % sys.version_info[:3])";
    let output = Command::new("python3")
        .args(["-c", code])
        .output()
        .context("python3 could not be started")?;
    let version = String::from_utf8(output.stdout)?.trim().to_owned();
    let numbers: Vec<u32> = version.split('.').filter_map(|n| n.parse().ok()).collect();
    match numbers[..] {
        [major, minor, ..] if (major, minor) >= OLDEST => Ok(version),
        _ => bail!(
            "python3 is {version:?}; the SDK needs {}.{} or newer: install one, and put it first in PATH",
            OLDEST.0,
            OLDEST.1
        ),
    }
}
