//! The command `fumehood`.
//!
//! The modules are listed from the top layer to the bottom: a module imports only modules listed after it.

#![warn(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "they panic if the stream is closed or its disk is full"
)]

mod commands;
mod folder_sync;
mod args;
mod transfer;
mod requirements;
mod policy_file;
mod server_client;
mod outcome;
mod io;
mod exit_code;

use std::process::ExitCode;

use clap::Parser;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::args::{CommandLine, Subcommand};
use crate::exit_code::{BROKEN_PIPE, FAILURE};
use crate::io::{LogLimit, LogWriter, eprint_message, error_text};

fn main() -> ExitCode {
    let descriptors = fumehood_engine::raise_descriptor_limit();
    let command_line = match CommandLine::try_parse() {
        Ok(command_line) => command_line,
        Err(error) => {
            // clap's own code 2 could be the program's; usage errors are failures of fumehood. `--help` and `--version`
            // arrive here, too, and are none.
            let code = if error.use_stderr() { FAILURE } else { 0 };
            let _ = error.print();
            return ExitCode::from(code);
        }
    };

    let result = init_log(&command_line.command).and_then(|()| run(command_line, descriptors));
    result.unwrap_or_else(|error| {
        let is_broken_pipe = |e: &std::io::Error| e.kind() == std::io::ErrorKind::BrokenPipe;
        if error.downcast_ref().is_some_and(is_broken_pipe) {
            return ExitCode::from(BROKEN_PIPE);
        }

        eprint_message(&error_text(&error));
        ExitCode::from(FAILURE)
    })
}

/// Installs the log on standard error. The server has its own default filter and format.
fn init_log(command: &Subcommand) -> anyhow::Result<()> {
    if let Subcommand::Serve(serve) = command {
        return commands::server::serve::init_log(serve.log_json);
    }

    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_env("FUMEHOOD_LOG"))
        .with_writer(|| LogWriter)
        .finish()
        .with(LogLimit::default())
        .init();
    Ok(())
}

fn run(command_line: CommandLine, descriptors: u64) -> anyhow::Result<ExitCode> {
    let host = &command_line.host;

    match command_line.command {
        Subcommand::Run(args) => commands::run::run(&args, host),
        Subcommand::Shell(args) => commands::shell::run(&args, host),
        Subcommand::Repl(args) => commands::repl::run(&args, host),
        Subcommand::Sandbox(args) => commands::sandbox::run(&args, host),
        Subcommand::Doctor => commands::doctor::run(host),
        Subcommand::Image(args) => commands::store::image::run(args, host),
        Subcommand::Template(args) => commands::store::template::run(&args, host),
        Subcommand::Layer(args) => commands::store::layer::run(&args, host),
        Subcommand::Agent(args) => commands::agent::run(&args, host),
        Subcommand::Conformance(args) => commands::conformance::run(&args),
        Subcommand::Policy(args) => commands::policy::run(&args),
        Subcommand::Serve(args) => commands::server::serve::run(&args, host, descriptors),
        Subcommand::Mcp(args) => commands::server::mcp::run(&args, host),
        Subcommand::Keys(args) => commands::server::keys::run(&args),
        Subcommand::Sandboxes(args) => commands::server::sandboxes::run(&args),
        Subcommand::Completions { shell } => commands::generate::print_completions(shell),
        Subcommand::Man => commands::generate::print_man_page(),
    }
}
