use std::io::Read;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, bail};
use fumehood_engine::{EndedBy, Engine, Error, Event, Language, Outcome, Run, RunRequest};
use tokio::io::{AsyncWrite, AsyncWriteExt};

use super::{Interrupts, runtime};
use crate::args::{Host, Run as RunArgs};
use crate::exit::{BROKEN_PIPE, FAILURE, INTERRUPTED, TIMEOUT};
use crate::json::{self, Captured};

pub(crate) fn run(args: RunArgs, host: Host) -> anyhow::Result<ExitCode> {
    let (language, code) = program(&args)?;
    let mut request = RunRequest::new(language, code)
        .timeout_s(args.timeout)
        .memory_mib(args.memory);
    for variable in &args.env {
        let (name, value) = environment(variable)?;
        request = request.env(name, value);
    }
    let mut config = host.config();
    config.limits.timeout_s = args.max_timeout;
    let result = runtime()?.block_on(async {
        let mut interrupts = Interrupts::new()?;
        let run = match Engine::start(config).and_then(|engine| engine.run(request)) {
            Ok(run) => run,
            Err(error) => return Ok(End::Failed(error)),
        };
        if args.json {
            capture(run, &mut interrupts).await
        } else {
            stream(run, &mut interrupts).await
        }
    });
    Ok(ExitCode::from(report(result?, &args)))
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
    let mut interrupted = false;
    loop {
        tokio::select! {
            event = run.next() => {
                let written = match event {
                    Some(Event::Stdout(bytes)) => write(&mut stdout, &bytes).await,
                    Some(Event::Stderr(bytes)) => write(&mut stderr, &bytes).await,
                    None => break,
                };
                match written {
                    Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => return Ok(End::BrokenPipe),
                    other => other.context("the output could not be written")?,
                }
            }
            () = interrupts.next() => {
                if std::mem::replace(&mut interrupted, true) {
                    return Ok(End::Abandoned);
                }
                run.canceller().cancel();
            }
        }
    }
    Ok(end(run, Captured::default(), Captured::default()).await)
}

async fn write(stream: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> std::io::Result<()> {
    stream.write_all(bytes).await?;
    stream.flush().await
}

/// Keeps output, up to a limit, for one object at the end.
async fn capture(mut run: Run, interrupts: &mut Interrupts) -> anyhow::Result<End> {
    let (mut stdout, mut stderr) = (Captured::default(), Captured::default());
    let mut interrupted = false;
    loop {
        tokio::select! {
            event = run.next() => match event {
                Some(Event::Stdout(bytes)) => stdout.add(&bytes),
                Some(Event::Stderr(bytes)) => stderr.add(&bytes),
                None => break,
            },
            () = interrupts.next() => {
                if std::mem::replace(&mut interrupted, true) {
                    return Ok(End::Abandoned);
                }
                run.canceller().cancel();
            }
        }
    }
    Ok(end(run, stdout, stderr).await)
}

async fn end(run: Run, stdout: Captured, stderr: Captured) -> End {
    match run.outcome().await {
        Ok(outcome) => End::Outcome(Box::new(outcome), stdout, stderr),
        Err(error) => End::Failed(error),
    }
}

/// Says what there is to say and returns the exit code.
fn report(end: End, args: &RunArgs) -> u8 {
    match end {
        End::Outcome(outcome, stdout, stderr) => {
            if args.json {
                println!("{}", json::outcome(&outcome, &stdout, &stderr));
            } else if !args.quiet {
                explain(&outcome, args);
            }
            exit_code(&outcome)
        }
        End::Failed(error) => {
            if args.json {
                println!("{}", json::failure(&error));
            }
            eprintln!("fumehood: {error}");
            FAILURE
        }
        End::Abandoned => INTERRUPTED,
        End::BrokenPipe => BROKEN_PIPE,
    }
}

/// A line on standard error, where the exit code alone would leave a riddle.
fn explain(outcome: &Outcome, args: &RunArgs) {
    let evidence = &outcome.evidence;
    let detail = evidence
        .detail
        .as_deref()
        .map(|detail| format!(": {detail}"))
        .unwrap_or_default();
    match outcome.ended_by {
        EndedBy::Exited => {}
        EndedBy::Timeout => eprintln!(
            "fumehood: ended after {} s, its timeout (-t){detail}",
            limit(args)
        ),
        EndedBy::Cancelled => eprintln!("fumehood: cancelled{detail}"),
        EndedBy::OutOfMemory => {
            eprintln!(
                "fumehood: killed for want of memory; the VM has {} MiB (-m){detail}",
                args.memory
            );
        }
        EndedBy::Signaled => {
            eprintln!(
                "fumehood: ended by signal {}{detail}",
                evidence.signal.unwrap_or_default()
            );
        }
        EndedBy::OutputLimit => eprintln!("fumehood: ended at its output limit{detail}"),
        EndedBy::AgentLost => eprintln!("fumehood: the VM was lost{detail}"),
    }
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
