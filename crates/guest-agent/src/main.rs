//! The agent of a fumehood guest: runs code that a host sends, and nothing else.
//!
//! As PID 1 of a microVM it first sets up the system ([`boot`]), then serves the host on a virtio-serial port. With
//! `--listen` it serves TCP on a machine that it does not own ([`tcp_server`]). One event loop on one thread does
//! everything, because under software emulation every new instruction costs time.

// From the top layer to the bottom: a module imports only from its own folder and from modules below it.
mod boot;
mod tcp_server;
mod event_loop;
mod args;
mod requests;
mod files;
mod agent;
mod operation;
mod interpreter;
mod identity;
mod process;
mod ca_bundle;
mod transport;
mod settings;
mod checksum;

use std::process::ExitCode;

use args::CliAction;

fn main() -> ExitCode {
    if rustix::process::getpid().is_init() {
        return boot::run();
    }

    let result = match args::parse(std::env::args_os().skip(1)) {
        Ok(CliAction::Print(text)) => {
            print!("{text}");
            return ExitCode::SUCCESS;
        }
        Ok(CliAction::Listen(options)) => tcp_server::listen(*options),
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
