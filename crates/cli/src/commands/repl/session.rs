//! The session: one sandbox with one context, in which the inputs run.

use std::process::ExitCode;

use anyhow::{Context as _, bail};
use fumehood_engine::{
    Config, Context, EndedBy, Engine, Error, Event, Language, Outcome, Run, Sandbox, TemplateUse,
};

use super::banner::banner;
use super::completion::complete;
use super::plots::{ImageProtocol, Plots};
use super::source::{InputSource, SourceEvent};
use crate::args::{HostArgs, ReplArgs};
use crate::commands::runtime::start_runtime;
use crate::commands::store::missing_images::build_in_background;
use crate::exit_code::{FAILURE, INTERRUPTED};
use crate::io::{
    CancelGuard, Interrupt, Interrupts, Output, PackageProgress, Terminal, TerminalInput,
    eprint_message, error_text, print_denials, print_exposed_ports,
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
    let mut used_engine = None;
    let code = runtime.block_on(async {
        let mut interrupts = Interrupts::new()?;
        let engine = used_engine.insert(Engine::start(config)?);
        let sandbox = tokio::select! {
            sandbox = create_sandbox(engine, args, &uploads) => sandbox?,
            _ = interrupts.next() => return Ok(INTERRUPTED),
        };

        let code = run_session(&sandbox, args, &mut interrupts).await;
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

/// Creates a sandbox and copies the files into it.
async fn create_sandbox(
    engine: &Engine,
    args: &ReplArgs,
    uploads: &[Upload],
) -> anyhow::Result<Sandbox> {
    let mut builder = engine
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
    let mut session = Session {
        context: sandbox.context("repl", args.language),
        args,
        output: Output::to_streams(),
        plots: source.is_prompt().then(create_plots),
    };
    if source.is_prompt() {
        session.greet(sandbox, interrupts).await?;
    }
    let mut last_code = 0;

    loop {
        let event = tokio::select! {
            event = source.next() => event?,
            interrupt = interrupts.next() => match interrupt {
                // The signal was meant for the code that has just ended.
                Interrupt::CancelRun if source.is_prompt() => continue,
                _ => return Ok(INTERRUPTED),
            },
            reason = sandbox.wait() => bail!("the VM was lost: {reason}"),
        };
        let code = match event {
            SourceEvent::Input(code) => code,
            SourceEvent::Complete(request) => {
                let candidates = complete(&session.context, &request.completion).await;
                source.complete(&request, candidates);
                continue;
            }
            SourceEvent::End => return Ok(if source.is_prompt() { 0 } else { last_code }),
        };

        match session.run_input(code, interrupts).await? {
            InputEnd::Exited(code) if sandbox.ended().is_none() => last_code = code,
            InputEnd::Exited(_) => return Ok(FAILURE),
            InputEnd::Cancelled(code) if source.is_prompt() => last_code = code,
            InputEnd::Cancelled(_) | InputEnd::SessionEnded => return Ok(INTERRUPTED),
        }
        if source.is_prompt() {
            session.output.end_line().await?;
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

/// The pictures of an interactive session.
fn create_plots() -> Plots {
    Plots::new(ImageProtocol::detect(|name| std::env::var(name).ok()))
}

/// Runs inputs and shows their results.
struct Session<'a> {
    context: Context,
    args: &'a ReplArgs,
    output: Output,
    /// Only at a terminal: otherwise pictures are shown as their text.
    plots: Option<Plots>,
}

impl Session<'_> {
    /// Prints the banner. The user may already interrupt it.
    async fn greet(
        &mut self,
        sandbox: &Sandbox,
        interrupts: &mut Interrupts,
    ) -> anyhow::Result<()> {
        let has_network = sandbox.network().is_some();
        let banner = tokio::select! {
            banner = banner(&self.context, self.args, has_network) => banner,
            _ = interrupts.next() => return Ok(()),
        };
        Ok(self.output.print(banner.as_bytes()).await?)
    }

    /// Runs the code of one input, and reports its outcome.
    async fn run_input(
        &mut self,
        code: String,
        interrupts: &mut Interrupts,
    ) -> anyhow::Result<InputEnd> {
        let mut request = self.context.request(code).timeout_s(self.args.timeout);
        if self.args.language != Language::Shell {
            request = request.display();
        }
        // Without a prompt, standard input contains the next inputs.
        let is_prompt = self.plots.is_some();
        if is_prompt {
            request = request.stdin();
        }

        // A request that the engine rejects leaves the context as it is.
        let run = match self.context.start(&request) {
            Ok(run) => run,
            Err(error) => {
                eprint_message(&error.to_string());
                return Ok(InputEnd::Exited(FAILURE));
            }
        };

        // Text that is typed from now until the end is the program's input.
        let typed = match is_prompt {
            true => Some(TerminalInput::forward(run.input())?),
            false => None,
        };

        // The first Ctrl-C cancels only this code; the context continues if possible.
        let control = run.canceller();
        let mut guard = CancelGuard::new(interrupts, move || control.cancel());
        let written = guard.wait(self.write_output(run, typed.as_ref())).await;
        let ends_session = guard.ends_command();
        drop(typed);

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
        self.report(&outcome).await?;
        Ok(match outcome.ended_by {
            _ if ends_session => InputEnd::SessionEnded,
            EndedBy::Cancelled => InputEnd::Cancelled(exit_code(&outcome)),
            _ => InputEnd::Exited(exit_code(&outcome)),
        })
    }

    /// Writes output and values as they arrive, until the run has ended.
    async fn write_output(
        &mut self,
        mut run: Run,
        typed: Option<&TerminalInput>,
    ) -> anyhow::Result<Result<Outcome, Error>> {
        while let Some(event) = run.next().await {
            // The terminal has echoed a line of input, and its end.
            if typed.is_some_and(TerminalInput::take_line) {
                self.output.line_was_ended();
            }
            let written = self.write_event(&event).await;
            written.context("cannot write the output")?;
        }

        if typed.is_some_and(TerminalInput::take_line) {
            self.output.line_was_ended();
        }
        Ok(run.outcome().await)
    }

    /// Writes output, and a value that is a picture as a file.
    async fn write_event(&mut self, event: &Event) -> anyhow::Result<()> {
        if let (Event::Result(value), Some(plots)) = (event, &mut self.plots) {
            match plots.add(value) {
                Ok(Some(printed)) => return Ok(self.output.print(&printed).await?),
                Ok(None) => {}
                Err(error) => eprint_message(&error_text(&error)),
            }
        }
        Ok(self.output.write_event(event).await?)
    }

    /// Prints how the code ended if it did not exit normally, and whether the context's state is lost.
    async fn report(&mut self, outcome: &Outcome) -> anyhow::Result<()> {
        if outcome.ended_by != EndedBy::Exited {
            self.output.end_line().await?;
            print_outcome(outcome, self.args.timeout, self.args.memory);
        } else if let Some(detail) = &outcome.evidence.detail {
            self.output.end_line().await?;
            eprint_message(detail);
        }
        Ok(())
    }
}
