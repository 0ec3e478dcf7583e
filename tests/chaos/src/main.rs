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
mod namespaces;
mod cgroup;
mod places;
mod processes;
mod http;
mod random;
mod addresses;

use std::process::ExitCode;

use clap::Parser;

use campaign::Options;

fn main() -> anyhow::Result<ExitCode> {
    let options = Options::parse();
    if options.list {
        for fault in table::all() {
            println!("{:32} {}", fault.name, fault.promise.describe());
        }
        return Ok(ExitCode::SUCCESS);
    }

    if namespaces::is_inside() {
        campaign::run(&options)
    } else {
        namespaces::enter()
    }
}
