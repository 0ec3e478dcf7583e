//! The session: one sandbox with one context, in which the inputs run.

use std::process::ExitCode;

use anyhow::{Context as _, bail};
use fumehood_engine::{
    Config, Context, EndedBy, Engine, Error, Language, Outcome, Run, Sandbox, TemplateUse,
};

use super::source::InputSource;
use crate::args::{HostArgs, ReplArgs};
use crate::commands::runtime::start_runtime;
use crate::exit_code::{FAILURE, INTERRUPTED};
use crate::io::{
    CancelGuard, Interrupt, Interrupts, Output, PackageProgress, Terminal, eprint_message,
    print_denials, print_exposed_ports,
};
use crate::outcome::{exit_code, print_outcome};
use crate::transfer::{Upload, upload_all};

pub(crate) fn run(args: &ReplArgs, host: &HostArgs) -> anyhow::Result<ExitCode> {
    let uploads = Upload::parse_all(&args.uploads.upload)?;
    let mut config = Config {
        templates: TemplateUse::Use,
        ..host.config()
    };
    config.limits.timeout_s = config.limits.timeout_s.max(args.timeout);
    args.packages.configure(&mut config);

    let runtime = start_runtime()?;
    let code = runtime.block_on(async {
        let mut interrupts = Interrupts::new()?;
        let sandbox = tokio::select! {
            sandbox = create_sandbox(config, args, &uploads) => sandbox?,
            _ = interrupts.next() => return Ok(INTERRUPTED),
        };

        let code = run_session(&sandbox, args, &mut interrupts).await;
        print_denials(&sandbox.network().unwrap_or_default());
        sandbox.end().await;
        code
    });

    // A blocked read of standard input must not keep the process alive.
    runtime.shutdown_background();
    Ok(ExitCode::from(code?))
}

/// Creates a sandbox and copies the files into it.
async fn create_sandbox(
    config: Config,
    args: &ReplArgs,
    uploads: &[Upload],
) -> anyhow::Result<Sandbox> {
    let mut builder = Engine::start(config)?
        .sandbox()
        .language(args.language)
        .memory_mib(args.memory);
    if let Some(network) = args.network.network()? {
        builder = builder.network(network);
    }

    // Installing packages may take minutes: show its steps.
    let progress = PackageProgress::new(false);
    let packages = args.packages.packages(args.language)?;
    let builder = args.packages.add_to_sandbox(&packages, builder, &progress);
    let sandbox = builder.await;
    progress.clear();

    let sandbox = sandbox?;
    progress.show_versions(sandbox.packages());
    print_exposed_ports(&sandbox);
    upload_all(uploads, &sandbox).await?;
    Ok(sandbox)
}

/// Runs input after input. Returns the exit code.
async fn run_session(
    sandbox: &Sandbox,
    args: &ReplArgs,
    interrupts: &mut Interrupts,
) -> anyhow::Result<u8> {
    // The line editor restores the terminal's modes after each line, but not if it is left in the middle of one.
    let _terminal = Terminal::open()?;
    let mut source = InputSource::open(args.language)?;
    let context = sandbox.context("repl", args.language);
    let mut output = Output::to_streams();
    let mut last_code = 0;

    loop {
        let input = tokio::select! {
            input = source.next() => input?,
            interrupt = interrupts.next() => match interrupt {
                // The signal was meant for the code that has just ended.
                Interrupt::CancelRun if source.is_prompt() => continue,
                _ => return Ok(INTERRUPTED),
            },
            reason = sandbox.wait() => bail!("the VM was lost: {reason}"),
        };
        let Some(code) = input else {
            return Ok(if source.is_prompt() { 0 } else { last_code });
        };

        match run_input(&context, code, args, &mut output, interrupts).await? {
            InputEnd::Exited(code) if sandbox.ended().is_none() => last_code = code,
            InputEnd::Exited(_) => return Ok(FAILURE),
            InputEnd::Cancelled(code) if source.is_prompt() => last_code = code,
            InputEnd::Cancelled(_) | InputEnd::SessionEnded => return Ok(INTERRUPTED),
        }
        if source.is_prompt() {
            output.end_line().await?;
        }
    }
}

/// How the code of an input ended.
enum InputEnd {
    /// With this exit code, or a failure.
    Exited(u8),
    /// The user cancelled it.
    Cancelled(u8),
    /// The user ended the whole session.
    SessionEnded,
}

/// Runs the code of one input, and reports its outcome.
async fn run_input(
    context: &Context,
    code: String,
    args: &ReplArgs,
    output: &mut Output,
    interrupts: &mut Interrupts,
) -> anyhow::Result<InputEnd> {
    let mut request = context.request(code).timeout_s(args.timeout);
    if args.language != Language::Shell {
        request = request.display();
    }
    // A request that the engine rejects leaves the context as it is.
    let run = match context.start(&request) {
        Ok(run) => run,
        Err(error) => {
            eprint_message(&error.to_string());
            return Ok(InputEnd::Exited(FAILURE));
        }
    };

    // The first Ctrl-C cancels only this code; the context continues if possible.
    let control = run.canceller();
    let mut guard = CancelGuard::new(interrupts, move || control.cancel());
    let written = guard.wait(write_output(run, output)).await;
    let ends_session = guard.ends_command();

    // The code did not end after it was cancelled: the VM is given up with its state.
    let Some(result) = written else {
        eprint_message("interrupted; the VM was ended");
        return Ok(InputEnd::SessionEnded);
    };
    let outcome = match result? {
        Ok(outcome) => outcome,
        Err(error) => {
            eprint_message(&error.to_string());
            return Ok(InputEnd::Exited(FAILURE));
        }
    };

    // A signal that ends the command takes precedence over the code's outcome.
    report(&outcome, args, output).await?;
    Ok(match outcome.ended_by {
        _ if ends_session => InputEnd::SessionEnded,
        EndedBy::Cancelled => InputEnd::Cancelled(exit_code(&outcome)),
        _ => InputEnd::Exited(exit_code(&outcome)),
    })
}

/// Writes output and values as they arrive, until the run has ended.
async fn write_output(mut run: Run, output: &mut Output) -> anyhow::Result<Result<Outcome, Error>> {
    while let Some(event) = run.next().await {
        let written = output.write_event(&event).await;
        written.context("cannot write the output")?;
    }
    Ok(run.outcome().await)
}

/// Prints how the code ended if it did not exit normally, and whether the context's state is lost.
async fn report(outcome: &Outcome, args: &ReplArgs, output: &mut Output) -> anyhow::Result<()> {
    if outcome.ended_by != EndedBy::Exited {
        output.end_line().await?;
        print_outcome(outcome, args.timeout, args.memory);
    } else if let Some(detail) = &outcome.evidence.detail {
        output.end_line().await?;
        eprint_message(detail);
    }
    Ok(())
}
