//! `cargo xtask chaos`: faults while fumehood works.

use std::ffi::OsString;
use std::process::Command;

use crate::setup::{self, PROFILE, Programs};
use crate::shell::{self, cargo};

/// Where cargo leaves the program.
const PROGRAM: &str = "target/setup/fumehood-chaos";

/// Minutes of faults in `cargo xtask test`.
const TEST_MINUTES: &str = "1";

/// What to inject.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// `--seed N`, `--minutes M`, `--faults K`, `--only FAULT`, `--report FILE`, `--list`; see `--help` after `--`
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    options: Vec<OsString>,
}

/// Builds what is missing, and injects faults.
///
/// # Errors
/// Fails if a program cannot be built, or a promise is broken.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    let programs = setup::setup()?;
    shell::run(cargo().args(["build", "--profile", PROFILE, "-p", "fumehood-chaos"]))?;

    inject(&programs, &options.options)
}

/// Injects faults with a random seed, which is printed, for as long as there is time for it in CI. The program is built.
///
/// # Errors
/// Fails if a promise is broken.
pub(crate) fn run_short(programs: &Programs) -> anyhow::Result<()> {
    inject(programs, &["--minutes".into(), TEST_MINUTES.into()])
}

fn inject(programs: &Programs, options: &[OsString]) -> anyhow::Result<()> {
    shell::run(
        Command::new(PROGRAM)
            .args(options)
            .env("FUMEHOOD_BIN", &programs.fumehood),
    )
}
