//! `cargo xtask bench`: times beside a floor measured in the same run.

use std::process::Command;

use clap::builder::PossibleValuesParser;

use crate::{setup, shell};

/// The parts of the benchmark, one a line; a test of the benchmark compares them with its own list.
const PARTS: &str = include_str!("../../tests/performance/parts.txt");

/// What to measure.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Pairs to measure
    #[arg(long, default_value_t = 10)]
    rounds: u32,

    /// Parts to measure; all if none is named
    #[arg(value_parser = PossibleValuesParser::new(PARTS.lines()))]
    parts: Vec<String>,
}

/// Builds the programs of the benchmark and runs it.
///
/// # Errors
/// Fails if a program cannot be built, or the benchmark fails.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    setup::setup()?;
    setup::build_static(&["fumehood-floor-init", "fumehood-guest-load"])?;
    let programs = setup::release_programs()?;
    shell::run(shell::cargo().args(["build", "--release", "-p", "fumehood-performance"]))?;

    shell::run(
        Command::new("target/release/fumehood-performance")
            .arg(options.rounds.to_string())
            .args(&options.parts)
            .env("FUMEHOOD_BIN", &programs.fumehood),
    )
}
