//! `fumehood sandbox`: creates and uses sandboxes on this user's server. Each file has one group of subcommands; requests
//! belong to `server_client`.

mod archive;
mod checkpoints;
mod copy;
mod create;
mod diff;
mod exec;
mod follow;
mod fork;
mod lifecycle;
mod list;
mod logs;
mod lookup;
mod ports;
mod run;

use std::process::ExitCode;

use self::lifecycle::Action;
use super::runtime::start_runtime;
use crate::args::{HostArgs, SandboxArgs, SandboxCommand};
use crate::io::Interrupts;
use crate::server_client::{ServerClient, ensure_running};

pub(crate) fn run(args: &SandboxArgs, host: &HostArgs) -> anyhow::Result<ExitCode> {
    let runtime = start_runtime()?;
    let code = runtime.block_on(async {
        let server = connect(args, host).await?;
        run_command(&server, &args.command).await
    });

    // A blocked read of standard input must not keep the process alive.
    runtime.shutdown_background();
    Ok(ExitCode::from(code?))
}

/// Returns the server of this user. `create` starts it.
async fn connect(args: &SandboxArgs, host: &HostArgs) -> anyhow::Result<ServerClient> {
    match (&args.command, &args.socket) {
        (SandboxCommand::Create(_), None) => ensure_running(&host.to_environment()?).await,
        (_, socket) => ServerClient::connected(socket.clone()).await,
    }
}

/// Runs a subcommand. Returns the exit code.
async fn run_command(server: &ServerClient, command: &SandboxCommand) -> anyhow::Result<u8> {
    let mut interrupts = Interrupts::new()?;

    match command {
        SandboxCommand::Run(args) => return run::run(server, args, &mut interrupts).await,
        SandboxCommand::Exec(args) => return exec::exec(server, args, &mut interrupts).await,
        SandboxCommand::Shell(args) => return exec::shell(server, args, &mut interrupts).await,
        _ => {}
    }

    // The others have nothing to end: a signal ends this command.
    tokio::select! {
        code = run_short_command(server, command) => code,
        _ = interrupts.next() => Ok(crate::exit_code::INTERRUPTED),
    }
}

async fn run_short_command(server: &ServerClient, command: &SandboxCommand) -> anyhow::Result<u8> {
    match command {
        SandboxCommand::Run(_) | SandboxCommand::Exec(_) | SandboxCommand::Shell(_) => Ok(0),
        SandboxCommand::Create(args) => create::create(server, args).await,
        SandboxCommand::Ls(args) => list::list(server, args).await,
        SandboxCommand::Inspect(args) => list::inspect(server, &args.sandboxes).await,
        SandboxCommand::Cp(args) => copy::copy(server, args).await,
        SandboxCommand::Logs(args) => logs::logs(server, args).await,
        SandboxCommand::Stop(args) | SandboxCommand::Rm(args) => {
            lifecycle::change(server, args, Action::End).await
        }
        SandboxCommand::Pause(args) => lifecycle::change(server, args, Action::Pause).await,
        SandboxCommand::Resume(args) => lifecycle::change(server, args, Action::Resume).await,
        SandboxCommand::Fork(args) => fork::fork(server, args).await,
        SandboxCommand::Checkpoint(args) => checkpoints::run(server, &args.command).await,
        SandboxCommand::Ports(args) => ports::ports(server, args).await,
        SandboxCommand::Diff(args) => diff::diff(server, args).await,
    }
}
