use std::io::Read;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use fumehood_engine::{
    Canceller, EndedBy, Engine, Error, Event, Language, Outcome, Run, RunRequest, TemplateUse,
};
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::time::Instant;

use super::{Interrupts, complain, runtime, say};
use crate::args::{Host, Run as RunArgs};
use crate::exit::{BROKEN_PIPE, FAILURE, INTERRUPTED, TIMEOUT};
use crate::json::{self, Captured};

pub(crate) fn run(args: &RunArgs, host: &Host) -> anyhow::Result<ExitCode> {
    match request(args) {
        Ok(request) => start(request, args, host),
        Err(error) if args.json => {
            say(&json::failure("invalid", "useless", &format!("{error:#}")))?;
            Err(error)
        }
        Err(error) => Err(error),
    }
}

/// What the words ask for.
fn request(args: &RunArgs) -> anyhow::Result<RunRequest> {
    let (language, code) = program(args)?;
    let mut request = RunRequest::new(language, code)
        .timeout_s(args.timeout)
        .memory_mib(args.memory);
    for variable in &args.env {
        let (name, value) = environment(variable)?;
        request = request.env(name, value);
    }
    if args.fresh_interpreter {
        request = request.fresh_interpreter();
    }
    Ok(request)
}

fn start(request: RunRequest, args: &RunArgs, host: &Host) -> anyhow::Result<ExitCode> {
    let mut config = host.config();
    config.limits.timeout_s = args.max_timeout;
    // A command that is gone in a moment builds nothing behind its user's back.
    config.templates = if args.boot {
        TemplateUse::Never
    } else {
        TemplateUse::Use
    };
    let runtime = runtime()?;
    let result = runtime.block_on(async {
        let mut interrupts = Interrupts::new()?;
        match Engine::start(config).and_then(|engine| engine.run(request)) {
            Ok(run) if args.json => Ok(capture(run, &mut interrupts).await),
            Ok(run) => stream(run, &mut interrupts).await,
            Err(error) => Ok(End::Failed(error)),
        }
    });
    // A write that nobody takes must not hold the command.
    runtime.shutdown_background();
    Ok(ExitCode::from(report(result?, args)?))
}

/// How it ended, as the command sees it.
enum End {
    Outcome(Box<Outcome>, Captured, Captured),
    Failed(Error),
    /// Interrupted twice: the VM was ended at once.
    Abandoned,
    /// Nobody reads the output.
    BrokenPipe,
}

/// Writes output as it comes.
async fn stream(mut run: Run, interrupts: &mut Interrupts) -> anyhow::Result<End> {
    let mut stdout = tokio::io::stdout();
    let mut stderr = tokio::io::stderr();
    let canceller = run.canceller();
    let mut patience = Patience::new(interrupts, &canceller);
    loop {
        let Some(event) = patience.with(run.next()).await else {
            return Ok(End::Abandoned);
        };
        let written = match event {
            Some(Event::Stdout(bytes)) => patience.with(write(&mut stdout, &bytes)).await,
            Some(Event::Stderr(bytes)) => patience.with(write(&mut stderr, &bytes)).await,
            Some(_) => continue,
            None => break,
        };
        match written {
            None => return Ok(End::Abandoned),
            Some(Err(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => {
                return Ok(End::BrokenPipe);
            }
            Some(other) => other.context("the output could not be written")?,
        }
    }
    Ok(end(run, Captured::default(), Captured::default()).await)
}

async fn write(stream: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> std::io::Result<()> {
    stream.write_all(bytes).await?;
    stream.flush().await
}

/// Keeps output, up to a limit, for one object at the end.
async fn capture(mut run: Run, interrupts: &mut Interrupts) -> End {
    let (mut stdout, mut stderr) = (Captured::default(), Captured::default());
    let canceller = run.canceller();
    let mut patience = Patience::new(interrupts, &canceller);
    loop {
        match patience.with(run.next()).await {
            None => return End::Abandoned,
            Some(Some(Event::Stdout(bytes))) => stdout.add(&bytes),
            Some(Some(Event::Stderr(bytes))) => stderr.add(&bytes),
            Some(Some(_)) => {}
            Some(None) => return end(run, stdout, stderr).await,
        }
    }
}

/// Waits for things while the user may interrupt: the first interrupt cancels the run, which then
/// has a while to tell its end; the second one, or the end of that while, gives it up.
struct Patience<'a> {
    interrupts: &'a mut Interrupts,
    canceller: &'a Canceller,
    until: Option<Instant>,
}

/// How long a cancelled run may take to be told: the guest's own steps and a margin.
const CANCEL_DEADLINE: Duration = Duration::from_secs(20);

impl<'a> Patience<'a> {
    fn new(interrupts: &'a mut Interrupts, canceller: &'a Canceller) -> Self {
        Self {
            interrupts,
            canceller,
            until: None,
        }
    }

    /// The value, or `None` when it is to be given up.
    async fn with<T>(&mut self, awaited: impl Future<Output = T>) -> Option<T> {
        tokio::pin!(awaited);
        loop {
            let until = self.until;
            let given_up = async {
                match until {
                    Some(until) => tokio::time::sleep_until(until).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                value = &mut awaited => return Some(value),
                () = self.interrupts.next() => {
                    if self.until.is_some() {
                        return None;
                    }
                    self.canceller.cancel();
                    self.until = Some(Instant::now() + CANCEL_DEADLINE);
                }
                () = given_up => return None,
            }
        }
    }
}

async fn end(run: Run, stdout: Captured, stderr: Captured) -> End {
    match run.outcome().await {
        Ok(outcome) => End::Outcome(Box::new(outcome), stdout, stderr),
        Err(error) => End::Failed(error),
    }
}

/// Says what there is to say and returns the exit code.
fn report(end: End, args: &RunArgs) -> anyhow::Result<u8> {
    Ok(match end {
        End::Outcome(outcome, stdout, stderr) => {
            if args.json {
                say(&json::outcome(&outcome, &stdout, &stderr))?;
            } else if !args.quiet {
                explain(&outcome, args);
            }
            exit_code(&outcome)
        }
        End::Failed(error) => {
            if args.json {
                let (kind, retry) = (
                    format!("{:?}", error.kind()),
                    format!("{:?}", error.retry()),
                );
                say(&json::failure(
                    &kind.to_lowercase(),
                    &retry.to_lowercase(),
                    &error.to_string(),
                ))?;
            }
            complain(&error.to_string());
            FAILURE
        }
        End::Abandoned => {
            if args.json {
                say(&json::failure(
                    "interrupted",
                    "unknown",
                    "interrupted; the VM was ended",
                ))?;
            }
            INTERRUPTED
        }
        End::BrokenPipe => BROKEN_PIPE,
    })
}

/// A line on standard error, where the exit code alone would leave a riddle.
fn explain(outcome: &Outcome, args: &RunArgs) {
    let evidence = &outcome.evidence;
    let what = match outcome.ended_by {
        EndedBy::Exited => return,
        EndedBy::Timeout => {
            let accelerator = outcome.accelerator;
            format!(
                "ended after {} s, its timeout (-t), under {accelerator}",
                limit(args)
            )
        }
        EndedBy::Cancelled => "cancelled".to_string(),
        EndedBy::OutOfMemory => format!(
            "killed for want of memory; the VM has {} MiB (-m)",
            args.memory
        ),
        EndedBy::Signaled => format!("ended by signal {}", evidence.signal.unwrap_or_default()),
        EndedBy::OutputLimit => "ended at its output limit".to_string(),
        EndedBy::AgentLost => "the VM was lost".to_string(),
    };
    let detail = evidence
        .detail
        .as_deref()
        .map(|detail| format!(": {detail}"))
        .unwrap_or_default();
    complain(&format!("{what}{detail}"));
}

fn limit(args: &RunArgs) -> u64 {
    if args.timeout == 0 {
        args.max_timeout
    } else {
        args.timeout
    }
}

fn exit_code(outcome: &Outcome) -> u8 {
    match outcome.ended_by {
        EndedBy::Timeout => TIMEOUT,
        EndedBy::Cancelled => INTERRUPTED,
        EndedBy::AgentLost => FAILURE,
        _ => outcome
            .exit_code
            .and_then(|code| u8::try_from(code & 0xff).ok())
            .unwrap_or(FAILURE),
    }
}

/// The language and the text of what is to be run.
fn program(args: &RunArgs) -> anyhow::Result<(Language, String)> {
    let file = args.file.as_deref();
    let by_extension = || {
        file?
            .extension()?
            .to_str()
            .and_then(Language::from_extension)
    };
    let Some(language) = args.language.or_else(by_extension) else {
        bail!("which language? name it with -l python, -l javascript or -l raw (shell)");
    };
    let code = match (file, &args.code) {
        (Some(file), _) => read(file)?,
        (None, Some(code)) => code.clone(),
        (None, None) => {
            bail!("nothing to run: name a file, or - for standard input, or give -c CODE")
        }
    };
    Ok((language, code))
}

/// Reads no more than can be valid, and one byte more: the engine says what is too long.
fn read(file: &Path) -> anyhow::Result<String> {
    let most = fumehood_engine::Limits::default().code_bytes + 1;
    let mut bytes = Vec::new();
    let result = if file == Path::new("-") {
        std::io::stdin().lock().take(most).read_to_end(&mut bytes)
    } else {
        std::fs::File::open(file).and_then(|opened| opened.take(most).read_to_end(&mut bytes))
    };
    result.with_context(|| format!("{} cannot be read", file.display()))?;
    if bytes.len() as u64 == most {
        bail!(
            "{} has more than {} bytes; that is the most code that is allowed",
            file.display(),
            most - 1
        );
    }
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        anyhow::anyhow!("{} is no UTF-8 text at byte {at}", file.display())
    })
}

fn environment(variable: &str) -> anyhow::Result<(&str, String)> {
    if let Some((name, value)) = variable.split_once('=') {
        return Ok((name, value.to_owned()));
    }
    let value = std::env::var(variable)
        .with_context(|| format!("-e {variable}: it has no value here; use -e {variable}=VALUE"))?;
    Ok((variable, value))
}
