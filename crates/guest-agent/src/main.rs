//! The agent of a fumehood guest: runs code that a host sends, and nothing else.
//!
//! As PID 1 of a microVM it first sets up the system ([`boot`]), then serves the host on a virtio-serial port. With
//! `--listen` it serves TCP on a machine that it does not own ([`tcp_server`]). One event loop on one thread does
//! everything, because under software emulation every new instruction costs time.

#![warn(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "they panic if the stream is closed or its disk is full"
)]

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
mod process;
mod identity;
mod ca_bundle;
mod transport;
mod settings;
mod messages;
mod checksum;

use std::io::{self, Write};
use std::process::ExitCode;

use args::CliAction;

fn main() -> ExitCode {
    if rustix::process::getpid().is_init() {
        return boot::run();
    }

    let result = match args::parse(std::env::args_os().skip(1)) {
        Ok(CliAction::Print(text)) => {
            let _ = io::stdout().write_all(text.as_bytes());
            return ExitCode::SUCCESS;
        }
        Ok(CliAction::Listen(options)) => tcp_server::listen(*options),
        Err(message) => Err(message),
    };

    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            messages::eprint_message(&message);
            ExitCode::from(2)
        }
    }
}
