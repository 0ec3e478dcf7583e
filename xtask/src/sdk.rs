//! The Python SDK: its virtual environments, and its tests.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};

use crate::build::Programs;
use crate::shell::run;

/// Where the SDK is.
const SDK: &str = "sdk/python";

/// What its tests need, by version; the MCP client of the Rust tests is among it.
const REQUIREMENTS: &str = "sdk/python/requirements-test.txt";

/// The environment of the tests. It is kept as long as its requirements stay the same.
const TESTS: &str = "target/python";

/// An environment that is made anew each time, as a user makes one.
const FRESH: &str = "target/python-fresh";

/// The oldest Python that the SDK is for.
const OLDEST: (u32, u32) = (3, 10);

/// Makes the environment of the tests, with the SDK as it is now. Returns its Python. Packages come from the index
/// that this machine's pip is configured for.
pub(crate) fn prepare() -> anyhow::Result<PathBuf> {
    let version = python_version()?;
    let wanted = format!("{version}\n{}", fs::read_to_string(REQUIREMENTS)?);
    let made_of = Path::new(TESTS).join("made-of");
    let python = python_of(TESTS)?;
    if fs::read_to_string(&made_of).ok().as_deref() != Some(&*wanted) {
        make(TESTS)?;
        run(pip(&python).args(["-r", REQUIREMENTS]))?;
        fs::write(&made_of, wanted)?;
    }
    run(pip(&python)
        .args(["--no-deps", "--no-build-isolation", "--force-reinstall"])
        .arg(format!("./{SDK}")))?;
    Ok(python)
}

/// Types, tests with real VMs, the API's own description, and the READMEs' examples as a user would try them.
pub(crate) fn test(python: &Path, programs: &Programs) -> anyhow::Result<()> {
    run(Command::new(python).args(["-m", "mypy"]).current_dir(SDK))?;
    run(Command::new(python)
        .args(["-m", "pytest"])
        .current_dir(SDK)
        .env("FUMEHOOD_BIN", &programs.fumehood)
        .env("FUMEHOOD_AGENT", &programs.agent)
        .env("FUMEHOOD_INDEX_TESTS", "1"))?;
    make(FRESH)?;
    let fresh = python_of(FRESH)?;
    run(pip(&fresh).arg(format!("./{SDK}")))?;
    for readme in ["README.md", &format!("{SDK}/README.md")] {
        run(Command::new(&fresh)
            .args([&format!("{SDK}/tests/readme.py"), readme])
            .env("FUMEHOOD_BIN", &programs.fumehood))?;
    }
    Ok(())
}

fn make(environment: &str) -> anyhow::Result<()> {
    run(Command::new("python3").args(["-m", "venv", "--clear", environment]))
}

fn python_of(environment: &str) -> anyhow::Result<PathBuf> {
    // Not to be resolved: an environment is found by the link's own place.
    Ok(std::path::absolute(environment)?.join("bin/python"))
}

fn pip(python: &Path) -> Command {
    let mut command = Command::new(python);
    command.args(["-m", "pip", "--disable-pip-version-check", "install", "-q"]);
    command
}

/// The version of `python3`, which is not too old.
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
