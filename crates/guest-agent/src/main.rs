//! The agent of a fumehood guest: runs code that a host sends, and nothing else.
//!
//! As PID 1 of a microVM it first makes a system of it ([`boot`]), then serves the host on a
//! virtio-serial port. With `--listen` it serves TCP on a machine that is not ours. One event loop
//! on one thread does everything: under software emulation each new instruction costs.

mod agent;
mod args;
mod attach;
mod begin;
mod boot;
mod cgroup;
mod checksum;
mod command;
mod confine;
mod connection;
mod dispatch;
mod door;
mod ending;
mod event_loop;
mod files;
mod following;
mod freshness;
mod hello;
mod input;
mod install;
mod interpreter;
mod journal;
mod kept;
mod listing;
mod memory;
mod operation;
mod operations;
mod outbox;
mod output;
mod process;
mod procfs;
mod program;
mod queue;
mod replay;
mod settings;
mod spawn;
mod talk;
mod trust;

use std::process::ExitCode;

use args::Wish;

fn main() -> ExitCode {
    if rustix::process::getpid().is_init() {
        return boot::run();
    }
    let result = match args::parse(std::env::args_os().skip(1)) {
        Ok(Wish::Print(text)) => {
            print!("{text}");
            return ExitCode::SUCCESS;
        }
        Ok(Wish::Listen(listen)) => event_loop::listen(*listen),
        Err(message) => Err(message),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("fumehood-agent: {message}");
            ExitCode::from(2)
        }
    }
}
