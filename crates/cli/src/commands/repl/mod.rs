mod completeness;
mod prompt;

use std::process::ExitCode;

use anyhow::{Context as _, bail};
use fumehood_engine::{
    Config, Context, EndedBy, Engine, Language, Outcome, Run, Sandbox, TemplateUse,
};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader, Stdin};

use completeness::Piece;
use prompt::{Entered, Prompt};

use super::runtime::runtime;
use crate::args::{Host, Repl};
use crate::exit_code::{FAILURE, INTERRUPTED};
use crate::io::{
    Asked, Interrupts, Output, PackageProgress, Patience, Terminal, complain, greet,
    is_interactive, part,
};
use crate::outcome::{self, exit_code, explain};
use crate::transfer::Upload;

pub(crate) fn run(args: &Repl, host: &Host) -> anyhow::Result<ExitCode> {
    let uploads = args.uploads.upload.iter();
    let uploads: Vec<_> = uploads
        .map(|word| Upload::parse(word))
        .collect::<Result<_, _>>()?;
    let mut config = Config {
        templates: TemplateUse::Use,
        ..host.config()
    };
    config.limits.timeout_s = config.limits.timeout_s.max(args.timeout);
    args.packages.configure(&mut config);
    let runtime = runtime()?;
    let code = runtime.block_on(async {
        let mut interrupts = Interrupts::new()?;
        let sandbox = tokio::select! {
            sandbox = prepare(config, args, &uploads) => sandbox?,
            _ = interrupts.next() => return Ok(INTERRUPTED),
        };
        let code = session(&sandbox, args, &mut interrupts).await;
        part(&sandbox);
        sandbox.end().await;
        code
    });
    // Somebody may be reading keys still.
    runtime.shutdown_background();
    Ok(ExitCode::from(code?))
}

/// A sandbox that has the files.
async fn prepare(config: Config, args: &Repl, uploads: &[Upload]) -> anyhow::Result<Sandbox> {
    let mut builder = Engine::start(config)?.sandbox().language(args.language);
    if let Some(network) = args.network.network()? {
        builder = builder.network(network);
    }
    let shown = PackageProgress::new(false);
    let builder = args.packages.build(builder, &shown);
    let sandbox = builder.memory_mib(args.memory).await;
    shown.finish();
    let sandbox = sandbox?;
    greet(&sandbox);
    for upload in uploads {
        upload.go(&sandbox.files()).await?;
    }
    Ok(sandbox)
}

/// Runs piece after piece. Returns the exit code.
async fn session(
    sandbox: &Sandbox,
    args: &Repl,
    interrupts: &mut Interrupts,
) -> anyhow::Result<u8> {
    // The line editor puts it back after each line, and not when it is left in the middle of one.
    let _terminal = Terminal::find()?;
    let mut source = Source::new(args.language)?;
    let context = sandbox.context("repl", args.language);
    let mut output = Output::streams();
    let mut last = 0;
    loop {
        let code = tokio::select! {
            code = source.next() => code?,
            asked = interrupts.next() => match asked {
                // It was meant for what has just ended.
                Asked::Interrupt if source.is_typed() => continue,
                _ => return Ok(INTERRUPTED),
            },
            why = sandbox.wait() => bail!("the VM was lost: {why}"),
        };
        let Some(code) = code else {
            return Ok(if source.is_typed() { 0 } else { last });
        };
        match piece(&context, code, args, &mut output, interrupts).await? {
            Ended::Code(code) if sandbox.ended().is_none() => last = code,
            Ended::Code(_) => return Ok(FAILURE),
            Ended::Interrupted(code) if source.is_typed() => last = code,
            Ended::Interrupted(_) | Ended::Over => return Ok(INTERRUPTED),
        }
        if source.is_typed() {
            output.end_line().await?;
        }
    }
}

/// How a piece of code ended.
enum Ended {
    Code(u8),
    /// The user ended it.
    Interrupted(u8),
    /// The user ended more than it.
    Over,
}

/// Runs one piece of code, and says what there is to say.
async fn piece(
    context: &Context,
    code: String,
    args: &Repl,
    output: &mut Output,
    interrupts: &mut Interrupts,
) -> anyhow::Result<Ended> {
    let mut request = context.request(code).timeout_s(args.timeout);
    if args.language != Language::Shell {
        request = request.display();
    }
    let run = match context.start(&request) {
        Ok(run) => run,
        Err(error) => {
            complain(&error.to_string());
            return Ok(Ended::Code(FAILURE));
        }
    };
    let canceller = run.canceller();
    let mut patience = Patience::new(interrupts, move || canceller.cancel());
    let shown = patience.with(show(run, output)).await;
    let is_last = patience.is_last;
    let Some(shown) = shown else {
        complain("interrupted; the VM was ended");
        return Ok(Ended::Over);
    };
    let outcome = match shown? {
        Ok(outcome) => outcome,
        Err(error) => {
            complain(&error.to_string());
            return Ok(Ended::Code(FAILURE));
        }
    };
    let outcome = outcome::Ended::from(outcome);
    tell(&outcome, args, output).await?;
    Ok(match outcome.ended_by {
        _ if is_last => Ended::Over,
        EndedBy::Cancelled => Ended::Interrupted(exit_code(&outcome)),
        _ => Ended::Code(exit_code(&outcome)),
    })
}

/// Writes output and values as they come, to the end.
async fn show(
    mut run: Run,
    output: &mut Output,
) -> anyhow::Result<Result<Outcome, fumehood_engine::Error>> {
    while let Some(event) = run.next().await {
        let written = output.take(&event).await;
        written.context("the output could not be written")?;
    }
    Ok(run.outcome().await)
}

/// Says how it ended, and whether the state is lost.
async fn tell(outcome: &outcome::Ended, args: &Repl, output: &mut Output) -> anyhow::Result<()> {
    if outcome.ended_by != EndedBy::Exited {
        output.end_line().await?;
        explain(outcome, args.timeout, args.memory);
    } else if let Some(detail) = &outcome.evidence.detail {
        output.end_line().await?;
        complain(detail);
    }
    Ok(())
}

/// Where code comes from.
enum Source {
    Typed(Prompt),
    Lines(Language, BufReader<Stdin>),
}

impl Source {
    fn new(language: Language) -> anyhow::Result<Self> {
        Ok(match is_interactive() {
            true => Self::Typed(Prompt::new(language)?),
            false => Self::Lines(language, BufReader::new(tokio::io::stdin())),
        })
    }

    fn is_typed(&self) -> bool {
        matches!(self, Self::Typed(_))
    }

    /// The next piece of code that is not empty; `None` at the end.
    async fn next(&mut self) -> anyhow::Result<Option<String>> {
        loop {
            let code = match self {
                Self::Typed(prompt) => match prompt.next().await {
                    Entered::Code(code) if matches!(code.trim(), "exit" | "exit()") => None,
                    Entered::Code(code) => Some(code),
                    Entered::Nothing => continue,
                    Entered::End => None,
                    Entered::Failed(error) => bail!("the terminal cannot be read: {error}"),
                },
                Self::Lines(language, lines) => read(*language, lines).await?,
            };
            if code.as_ref().is_none_or(|code| !code.trim().is_empty()) {
                return Ok(code);
            }
        }
    }
}

/// Reads lines until they are a piece of code, or there are no more.
async fn read(language: Language, lines: &mut BufReader<Stdin>) -> anyhow::Result<Option<String>> {
    let most = fumehood_engine::Limits::default().code_bytes;
    let (mut code, mut piece) = (String::new(), Piece::new(language));
    loop {
        let begin = code.len();
        // One byte more than can be valid: the engine says what is too long.
        let read = (&mut *lines).take(most + 1).read_line(&mut code).await;
        let is_end = read.context("standard input cannot be read")? == 0;
        let line = code[begin..].trim_end_matches('\n');
        piece.line(line);
        if is_end && code.is_empty() {
            return Ok(None);
        }
        if is_end || piece.is_complete() || code.len() as u64 > most {
            return Ok(Some(code));
        }
    }
}
