//! Commands for people who work on fumehood.

mod bench;
mod demo;
mod fuzz;
mod soak;
mod test;
mod chaos;
mod kvm;
mod tidy;
mod programs;
mod setup;
mod packages;
mod shell;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask")]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Install or build what is missing: packages, programs, the guest image
    Setup,
    /// Set up, then run one program in each language
    Demo,
    /// Set up, then run all checks and tests, real VMs included
    Test(test::Options),
    /// Set up, then test the path through KVM in an emulated host, which needs no KVM
    TestKvm(kvm::Options),
    /// Measure times beside a floor measured in the same run
    Bench(bench::Options),
    /// Fuzz everything that reads input of a guest, a caller or a file: 20 s for each target
    Fuzz {
        /// Seconds for each target instead
        #[arg(value_parser = clap::value_parser!(u32).range(1..))]
        seconds: Option<u32>,
    },
    /// Inject faults while fumehood works: 2 minutes, or as the options say
    Chaos(chaos::Options),
    /// Let a server do mixed work for a long time; write what it held into docs/design/reliability.md
    Soak(soak::Options),
    /// Check the project's own rules: layers, names, licences, duplicate versions
    Tidy,
    /// Probe the walls of guest and host, and write the tables in docs/design/isolation.md
    Walls,
}

fn main() -> anyhow::Result<()> {
    std::env::set_current_dir(shell::root()?)?;

    match Args::parse().command {
        Command::Setup => setup::setup().map(drop),
        Command::Demo => demo::run(),
        Command::Test(options) => test::run(&options),
        Command::TestKvm(options) => kvm::run(&options),
        Command::Bench(options) => bench::run(&options),
        Command::Fuzz { seconds } => fuzz::run(seconds),
        Command::Chaos(options) => chaos::run(&options),
        Command::Soak(options) => soak::run(&options),
        Command::Tidy => tidy::run(),
        Command::Walls => tidy::write_walls(),
    }
}
