//! The command `fumehood`: words in, engine calls, lines out.

mod commands;

mod args;

mod transfer;

mod policy_file;

mod outcome;

mod io;

mod exit_code;

use std::process::ExitCode;

use clap::Parser;

use crate::args::{Args, Command};
use crate::exit_code::{BROKEN_PIPE, FAILURE};

fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => {
            // Help and version are no failure; a wrong option is one of fumehood's, not of a program.
            let code = if error.use_stderr() { FAILURE } else { 0 };
            let _ = error.print();
            return ExitCode::from(code);
        }
    };
    let result = log(&args.command).and_then(|()| run(args));
    result.unwrap_or_else(|error| {
        let broken = |e: &std::io::Error| e.kind() == std::io::ErrorKind::BrokenPipe;
        if error.downcast_ref().is_some_and(broken) {
            return ExitCode::from(BROKEN_PIPE);
        }
        io::complain(&format!("{error:#}"));
        ExitCode::from(FAILURE)
    })
}

fn log(command: &Command) -> anyhow::Result<()> {
    if let Command::Serve(serve) = command {
        return commands::serve::log(serve.log_json);
    }
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_env("FUMEHOOD_LOG"))
        .with_writer(std::io::stderr)
        .init();
    Ok(())
}

fn run(args: Args) -> anyhow::Result<ExitCode> {
    match args.command {
        Command::Run(run) => commands::run::run(&run, &args.host),
        Command::Shell(shell) => commands::shell::run(&shell, &args.host),
        Command::Repl(repl) => commands::repl::run(&repl, &args.host),
        Command::Doctor => commands::doctor::run(&args.host),
        Command::Image(image) => commands::image::run(image, &args.host),
        Command::Template(template) => commands::template::run(&template, &args.host),
        Command::Layer(layer) => commands::layer::run(&layer, &args.host),
        Command::Agent(agent) => commands::agent::run(&agent, &args.host),
        Command::Policy(policy) => commands::policy::run(&policy),
        Command::Serve(serve) => commands::serve::run(&serve, &args.host),
        Command::Mcp(mcp) => commands::mcp::run(&mcp, &args.host),
        Command::Keys(keys) => commands::keys::run(&keys),
        Command::Completions { shell } => commands::generate::completions(shell),
        Command::Man => commands::generate::man(),
    }
}
