use std::pin::pin;
use std::process::ExitCode;

use anyhow::Context;
use fumehood_engine::{Config, EndedBy, Engine, Outcome, Run, Sandbox, SpawnRequest, TemplateUse};
use rustix::process::Signal;
use tokio::signal::unix::{SignalKind, signal};

use super::runtime::runtime;
use crate::args::{Host, Shell, environment};
use crate::exit_code::INTERRUPTED;
use crate::io::{Feeding, Interrupts, Output, Terminal, greet, part, size};
use crate::outcome::{Ended, exit_code, explain};
use crate::transfer::Upload;

pub(crate) fn run(args: &Shell, host: &Host) -> anyhow::Result<ExitCode> {
    let request = request(args)?;
    let uploads = args.uploads.upload.iter();
    let uploads: Vec<_> = uploads
        .map(|word| Upload::parse(word))
        .collect::<Result<_, _>>()?;
    let config = Config {
        templates: TemplateUse::Use,
        ..host.config()
    };
    let runtime = runtime()?;
    let code = runtime.block_on(async {
        let mut interrupts = Interrupts::new()?;
        let sandbox = tokio::select! {
            sandbox = prepare(config, args, &uploads) => sandbox?,
            _ = interrupts.next() => return Ok(INTERRUPTED),
        };
        let code = session(&sandbox, request, args, &mut interrupts).await;
        part(&sandbox);
        sandbox.end().await;
        code
    });
    // Somebody may be reading keys still.
    runtime.shutdown_background();
    Ok(ExitCode::from(code?))
}

fn request(args: &Shell) -> anyhow::Result<SpawnRequest> {
    let mut request = match args.command.is_empty() {
        true => SpawnRequest::new(["bash", "-l"]),
        false => SpawnRequest::new(args.command.iter().cloned()),
    };
    if let Ok(kind) = std::env::var("TERM") {
        request = request.env("TERM", kind);
    }
    for variable in &args.env {
        let (name, value) = environment(variable)?;
        request = request.env(name, value);
    }
    if args.root {
        request = request.root();
    }
    Ok(request)
}

/// A sandbox that has the files.
async fn prepare(config: Config, args: &Shell, uploads: &[Upload]) -> anyhow::Result<Sandbox> {
    let mut builder = Engine::start(config)?.sandbox().memory_mib(args.memory);
    if args.root {
        builder = builder.allow_root();
    }
    if let Some(network) = args.network.network()? {
        builder = builder.network(network);
    }
    let sandbox = builder.await?;
    greet(&sandbox);
    for upload in uploads {
        upload.go(&sandbox.files()).await?;
    }
    Ok(sandbox)
}

/// Connects this terminal with the program's, until that has ended. Returns the exit code.
async fn session(
    sandbox: &Sandbox,
    request: SpawnRequest,
    args: &Shell,
    interrupts: &mut Interrupts,
) -> anyhow::Result<u8> {
    // Before the size is asked for: no change is missed.
    let mut resized = signal(SignalKind::window_change())?;
    let mut quit = signal(SignalKind::quit())?;
    let mut resumed = signal(SignalKind::from_raw(Signal::CONT.as_raw()))?;
    let (rows, cols) = size();
    let run = sandbox.spawn(&request.pty(rows, cols))?;
    let canceller = run.canceller();
    let terminal = Terminal::find().context("the terminal's modes cannot be read")?;
    if let Some(terminal) = &terminal {
        terminal.make_raw().context("the terminal cannot be used")?;
    }
    let mut feeding = Feeding::terminal(run.input(), terminal.is_some());
    let mut showing = pin!(show(run));
    let outcome = loop {
        tokio::select! {
            ended = &mut showing => break ended?,
            _ = resized.recv() => {
                let (rows, cols) = size();
                canceller.resize(rows, cols);
            }
            // Who stopped this command has given the terminal other modes meanwhile.
            _ = resumed.recv() => if let Some(terminal) = &terminal {
                terminal.make_raw()?;
            },
            () = feeding.escaped() => return Ok(INTERRUPTED),
            _ = interrupts.next() => return Ok(INTERRUPTED),
            _ = quit.recv() => return Ok(INTERRUPTED),
        }
    };
    drop(terminal);
    let ended = Ended::from(outcome);
    if ended.ended_by != EndedBy::Signaled {
        explain(&ended, 0, args.memory);
    }
    Ok(exit_code(&ended))
}

/// Writes what comes from the program's terminal, to its end.
async fn show(mut run: Run) -> anyhow::Result<Outcome> {
    let mut output = Output::streams();
    while let Some(event) = run.next().await {
        let written = output.take(&event).await;
        written.context("the output could not be written")?;
    }
    Ok(run.outcome().await?)
}
