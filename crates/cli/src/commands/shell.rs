//! `fumehood shell`: a terminal in a VM.

use std::process::ExitCode;

use anyhow::Context;
use fumehood_engine::{Config, EndedBy, Engine, Outcome, Run, Sandbox, SpawnRequest, TemplateUse};

use super::runtime::start_runtime;
use super::store::missing_images::build_in_background;
use super::terminal::TerminalSession;
use crate::args::{HostArgs, ShellArgs};
use crate::exit_code::INTERRUPTED;
use crate::io::{
    Interrupts, Output, StdinForwarder, print_denials, print_exposed_ports, terminal_size,
};
use crate::outcome::{exit_code, print_outcome};
use crate::transfer::{Upload, upload_all};

pub(crate) fn run(args: &ShellArgs, host: &HostArgs) -> anyhow::Result<ExitCode> {
    let request = spawn_request(args)?;
    let uploads = Upload::parse_all(&args.uploads.upload)?;
    let config = Config {
        templates: TemplateUse::Use,
        ..host.config()
    };

    let runtime = start_runtime()?;
    let mut used_engine = None;
    let code = runtime.block_on(async {
        let mut interrupts = Interrupts::new()?;
        let engine = used_engine.insert(Engine::start(config)?);
        let sandbox = tokio::select! {
            sandbox = create_sandbox(engine, args, &uploads) => sandbox?,
            _ = interrupts.next() => return Ok(INTERRUPTED),
        };

        let code = run_session(&sandbox, request, args, &mut interrupts).await;
        print_denials(&sandbox.network().unwrap_or_default());
        sandbox.end().await;
        code
    });

    // A blocked read of standard input must not keep the process alive.
    runtime.shutdown_background();
    if let Some(engine) = used_engine {
        build_in_background(&engine, host);
    }
    Ok(ExitCode::from(code?))
}

fn spawn_request(args: &ShellArgs) -> anyhow::Result<SpawnRequest> {
    let mut request = if args.command.is_empty() {
        SpawnRequest::new(["bash", "-l"])
    } else {
        SpawnRequest::new(args.command.iter().cloned())
    };

    // The program needs to know the capabilities of this terminal.
    if let Ok(terminal_type) = std::env::var("TERM") {
        request = request.env("TERM", terminal_type);
    }
    for (name, value) in args.environment.variables()? {
        request = request.env(name, value);
    }
    if args.root {
        request = request.root();
    }
    Ok(request)
}

/// Creates a sandbox and copies the files into it.
async fn create_sandbox(
    engine: &Engine,
    args: &ShellArgs,
    uploads: &[Upload],
) -> anyhow::Result<Sandbox> {
    let mut builder = engine.sandbox().memory_mib(args.memory);
    if args.root {
        builder = builder.allow_root();
    }
    if let Some(network) = args.network.network()? {
        builder = builder.network(network);
    }

    let sandbox = builder.await?;
    print_exposed_ports(&sandbox);
    upload_all(uploads, &sandbox).await?;
    Ok(sandbox)
}

/// Connects this terminal with that of the program until the program ends. Returns the exit code.
async fn run_session(
    sandbox: &Sandbox,
    request: SpawnRequest,
    args: &ShellArgs,
    interrupts: &mut Interrupts,
) -> anyhow::Result<u8> {
    let session = TerminalSession::new()?;
    let (rows, cols) = terminal_size();
    let run = sandbox.spawn(&request.pty(rows, cols))?;

    let (control, input) = (run.canceller(), run.input());
    let forward = |is_terminal| StdinForwarder::to_terminal(input, is_terminal);
    let resize = |rows, cols| control.resize(rows, cols);
    let outcome = session.run(forward, resize, write_output(run), interrupts);
    let Some(outcome) = outcome.await? else {
        return Ok(INTERRUPTED);
    };

    // The exit code 128 + n already says that a signal ended the program.
    if outcome.ended_by != EndedBy::Signaled {
        print_outcome(&outcome, 0, args.memory);
    }
    Ok(exit_code(&outcome))
}

/// Writes the output of the program's terminal until the program ends.
async fn write_output(mut run: Run) -> anyhow::Result<Outcome> {
    let mut output = Output::to_streams();
    while let Some(event) = run.next().await {
        let written = output.write_event(&event).await;
        written.context("cannot write the output")?;
    }
    Ok(run.outcome().await?)
}
