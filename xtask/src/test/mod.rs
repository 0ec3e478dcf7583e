//! `cargo xtask test`: everything that must hold before a change lands.

mod docs;
mod programs;
mod sdk;

use std::ffi::OsString;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::chaos;
use crate::packages;
use crate::setup::{self, PROFILE, Programs};
use crate::shell::{self, cargo};
use crate::tidy;

/// What to test.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct Options {
    /// Run only the test programs whose name contains this, or, if there are none, only the tests whose name contains it
    filter: Option<String>,

    /// Repeat as often as the design asks for: 2,000 mixed operations, 1,000 restores, more API examples
    #[arg(long)]
    long: bool,
}

/// Runs the checks and tests.
///
/// # Errors
/// Fails at the first check that fails; after all tests if one of them failed.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    let start = Instant::now();
    let is_whole = options.filter.is_none();
    packages::prepare()?;

    if is_whole {
        shell::run(cargo().args(["fmt", "--all", "--check"]))?;
        tidy::run()?;
        docs::check()?;
    }

    let (programs, test_programs) = setup::setup_while(|| {
        setup::build_test_programs()?;
        programs::build()
    })?;
    let python = sdk::prepare()?;
    if is_whole {
        lint()?;
    }

    let mut environment = vec![
        ("FUMEHOOD_BIN", programs.fumehood.clone().into_os_string()),
        ("FUMEHOOD_AGENT", programs.agent.clone().into_os_string()),
        ("FUMEHOOD_MCP_PYTHON", python.clone().into_os_string()),
    ];
    if options.long {
        environment.push((programs::LONG, "1".into()));
    }

    let report = programs::run(test_programs, options.filter.as_deref(), &environment)?;
    let others = if is_whole {
        let chaos = chaos::run_short(&programs).inspect_err(|error| eprintln!("{error:#}"));
        test_sdk_and_docs(&python, &programs, &environment).and(chaos)
    } else {
        Ok(())
    };

    // Both, so that a failure of one does not hide the other.
    report.finish().and(others)?;
    eprintln!("all tests passed in {}", seconds(start.elapsed()));
    Ok(())
}

fn test_sdk_and_docs(
    python: &Path,
    programs: &Programs,
    environment: &[(&str, OsString)],
) -> anyhow::Result<()> {
    let sdk = sdk::test(python, environment).inspect_err(|error| eprintln!("{error:#}"));
    let docs = docs::run_blocks(&sdk::install_fresh()?, programs);

    sdk.and(docs)
}

/// Lints the workspace and builds its documentation; both deny warnings.
fn lint() -> anyhow::Result<()> {
    shell::run(
        cargo()
            .args(["clippy", "--workspace", "--all-targets", "--all-features"])
            .args(["--profile", PROFILE, "--", "-D", "warnings"]),
    )?;
    shell::run(
        cargo()
            .args(["doc", "--workspace", "--no-deps", "--all-features"])
            .args(["--profile", PROFILE])
            .env("RUSTDOCFLAGS", "-D warnings"),
    )
}

/// A duration in seconds, for people.
fn seconds(duration: Duration) -> String {
    format!("{:.0} s", duration.as_secs_f32())
}
