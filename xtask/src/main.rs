//! Developers' commands.

mod build;
mod demo;
mod fuzz;
mod host;
mod sdk;
mod shell;
mod suite;
mod tidy;
mod walls;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask")]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Prepares what is missing: packages, programs, the image
    Setup,
    /// Prepares what is missing, then runs one program in each language
    Demo,
    /// Everything: format, lints, tidiness, tests, VMs included
    Test,
    /// Times runs beside a floor measured in the same run
    Bench {
        /// Pairs to measure
        #[arg(long, default_value_t = 10)]
        rounds: u32,
        /// Only these
        #[arg(value_parser = ["restores", "hot", "kept", "sessions", "network", "packages", "many", "forks", "boots", "density", "blocks"])]
        only: Vec<String>,
    },
    /// Fuzzes the gateway: its packet path for 10 minutes, each of its parsers for one
    Fuzz {
        /// Time for each of them instead
        #[arg(value_parser = clap::value_parser!(u32).range(1..))]
        seconds: Option<u32>,
    },
    /// Checks the house's own rules
    Tidy,
    /// Runs the probes of both sides, and regenerates the tables of docs/design/isolation.md
    Walls,
}

fn main() -> anyhow::Result<()> {
    std::env::set_current_dir(shell::root()?)?;
    match Args::parse().command {
        Command::Setup => build::setup().map(drop),
        Command::Demo => demo::run(),
        Command::Test => suite::run(),
        Command::Bench { rounds, only } => demo::bench(rounds, &only),
        Command::Fuzz { seconds } => fuzz::fuzz(seconds),
        Command::Tidy => tidy::run(),
        Command::Walls => walls::write(),
    }
}
