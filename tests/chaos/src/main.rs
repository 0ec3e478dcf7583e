//! Injects faults while fumehood works, and checks that each is answered as promised and leaves nothing behind.
//!
//! `cargo xtask chaos` builds everything and calls it. The program runs itself in namespaces of its own: of processes, so
//! that all that is started ends with it and nothing is overlooked; of mounts, for small disks; of networks, so that no
//! packet leaves the machine.

mod campaign;
mod report;
mod table;
mod fault;
mod neighbour;
mod leaks;
mod work;
mod world;
mod cgroup;
mod places;
mod processes;
mod http;
mod random;
mod namespaces;

use std::path::PathBuf;

use clap::Parser;

/// What to inject.
#[derive(Debug, Parser)]
#[command(name = "fumehood-chaos")]
pub(crate) struct Options {
    /// Determines the faults and their times; random without it
    #[arg(long)]
    seed: Option<u64>,

    /// End after this many minutes
    #[arg(long, default_value_t = 2.0)]
    minutes: f64,

    /// End after this many faults
    #[arg(long)]
    faults: Option<usize>,

    /// Inject only this fault; may be repeated
    #[arg(long, value_name = "FAULT")]
    only: Vec<String>,

    /// Write the table of results into this page of the documentation
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,

    /// List the faults
    #[arg(long)]
    list: bool,
}

fn main() -> anyhow::Result<std::process::ExitCode> {
    let options = Options::parse();
    if options.list {
        for fault in table::all() {
            println!("{:32} {}", fault.name, fault.promise.describe());
        }
        return Ok(std::process::ExitCode::SUCCESS);
    }

    if namespaces::is_inside() {
        campaign::run(&options)
    } else {
        namespaces::enter()
    }
}
