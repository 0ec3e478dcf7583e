use std::io::Read;
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, bail};
use fumehood_engine::{
    EndedBy, Engine, Event, Language, Network, RunRequest, Sandbox, TemplateUse,
};

use super::{complain, environment, runtime, say, served};
use crate::args::{Host, Run as RunArgs};
use crate::end::{Ended, Failure, Told, exit_code, explain};
use crate::exit::{BROKEN_PIPE, FAILURE, INTERRUPTED};
use crate::going::Going;
use crate::interrupts::{Interrupts, Patience};
use crate::json;
use crate::network;
use crate::output::Output;
use crate::packages::DisplayedValues;
use crate::transfer::{Download, Downloaded, Upload};

pub(crate) fn run(args: &RunArgs, host: &Host) -> anyhow::Result<ExitCode> {
    match plan(args) {
        Ok(plan) => start(&plan, args, host),
        Err(error) if args.json => {
            say(&json::failure("invalid", "never", &format!("{error:#}")))?;
            Err(error)
        }
        Err(error) => Err(error),
    }
}

/// What the words ask for.
pub(super) struct Plan {
    pub(super) language: Language,
    pub(super) code: String,
    request: RunRequest,
    pub(super) network: Option<Network>,
    pub(super) uploads: Vec<Upload>,
    pub(super) downloads: Vec<Download>,
}

fn plan(args: &RunArgs) -> anyhow::Result<Plan> {
    let uploads = args.uploads.upload.iter();
    let downloads = args.download.iter();
    let (language, code) = program(args)?;
    Ok(Plan {
        language,
        request: request(args, language, &code)?,
        code,
        network: args.network.network()?,
        uploads: uploads
            .map(|word| Upload::parse(word))
            .collect::<Result<_, _>>()?,
        downloads: downloads
            .map(|word| Download::parse(word))
            .collect::<Result<_, _>>()?,
    })
}

fn request(args: &RunArgs, language: Language, code: &str) -> anyhow::Result<RunRequest> {
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
    if args.stdin {
        request = request.stdin();
    }
    if args.display {
        request = request.display();
    }
    if let Some(dir) = &args.cwd {
        request = request.cwd(dir);
    }
    Ok(request)
}

fn start(plan: &Plan, args: &RunArgs, host: &Host) -> anyhow::Result<ExitCode> {
    let mut config = host.config();
    config.limits.timeout_s = args.max_timeout;
    args.packages.configure(&mut config);
    // A command that is gone in a moment builds nothing behind its user's back.
    config.templates = if args.boot {
        TemplateUse::Never
    } else {
        TemplateUse::Use
    };
    let mut output = match args.json {
        true => Output::Kept(Box::default()),
        false => Output::streams(),
    };
    let runtime = runtime()?;
    let result = runtime.block_on(async {
        let mut interrupts = Interrupts::new()?;
        if let Some(end) = served::run(plan, args, host, &mut output, &mut interrupts).await? {
            return Ok(end);
        }
        let engine = match Engine::start(config) {
            Ok(engine) => engine,
            Err(error) => return Ok(End::Failed(error.into())),
        };
        if !plan.uploads.is_empty() || !plan.downloads.is_empty() {
            return in_sandbox(&engine, plan, args, &mut output, &mut interrupts).await;
        }
        let mut request = plan.request.clone();
        if let Some(network) = &plan.network {
            request = request.network(network.clone());
        }
        let request = args.packages.request(request);
        match engine.run(request) {
            Ok(run) => follow(Going::Here(run), args, &mut output, &mut interrupts).await,
            Err(error) => Ok(End::Failed(error.into())),
        }
    });
    // A write that nobody takes must not hold the command, nor a read that nothing comes to.
    runtime.shutdown_background();
    Ok(ExitCode::from(report(result?, &output, args)?))
}

/// How it ended, as the command sees it.
pub(super) enum End<'a> {
    Ended(Box<Ended>, Vec<(&'a Download, Downloaded)>),
    Failed(Failure),
    /// Interrupted twice: the VM was ended at once. Or before the code was started.
    Abandoned,
    /// Nobody reads the output.
    BrokenPipe,
}

/// Follows a run to its end.
pub(super) async fn follow<'a>(
    mut run: Going,
    args: &RunArgs,
    output: &mut Output,
    interrupts: &mut Interrupts,
) -> anyhow::Result<End<'a>> {
    let mut patience = Patience::new(interrupts, run.canceller());
    let shown = DisplayedValues::new(args.quiet);
    let _feeding = args.stdin.then(|| run.feed());
    loop {
        let event = match patience.with(run.next()).await {
            None => return Ok(End::Abandoned),
            Some(None) => break,
            Some(Some(event)) => event,
        };
        match &event {
            Event::Packages(step) => shown.step(*step),
            _ => shown.finish(),
        }
        if let (Event::Exposed { url }, false) = (&event, args.quiet) {
            network::exposed(url);
        }
        match patience.with(output.take(&event)).await {
            None => return Ok(End::Abandoned),
            Some(Err(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => {
                return Ok(End::BrokenPipe);
            }
            Some(other) => other.context("the output could not be written")?,
        }
    }
    shown.finish();
    Ok(match run.end().await {
        Ok(ended) => End::Ended(Box::new(ended), Vec::new()),
        Err(failure) => End::Failed(failure),
    })
}

/// The same in a sandbox, with files that go in before and come out after it.
async fn in_sandbox<'a>(
    engine: &Engine,
    plan: &'a Plan,
    args: &RunArgs,
    output: &mut Output,
    interrupts: &mut Interrupts,
) -> anyhow::Result<End<'a>> {
    let start = Instant::now();
    let prepared = tokio::select! {
        prepared = prepare(engine, plan, args) => prepared,
        _ = interrupts.next() => return Ok(End::Abandoned),
    };
    let sandbox = match prepared {
        Ok(sandbox) => sandbox,
        Err(failure) => return Ok(End::Failed(failure)),
    };
    let run = match sandbox.run(&plan.request) {
        Ok(run) => run,
        Err(error) => return Ok(End::Failed(error.into())),
    };
    let mut end = follow(Going::Here(run), args, output, interrupts).await?;
    if let End::Ended(ended, downloads) = &mut end {
        tokio::select! {
            came = fetch(&sandbox, ended.ended_by, &plan.downloads) => *downloads = came,
            _ = interrupts.next() => return Ok(End::Abandoned),
        }
        ended.network = sandbox.network();
        let teardown = sandbox.end().await;
        if let Told::Outcome(outcome) = &mut ended.told {
            outcome.timing.start = sandbox.start();
            outcome.timing.teardown = teardown;
            outcome.timing.total = start.elapsed();
            outcome.network.clone_from(&ended.network);
        }
    }
    Ok(end)
}

/// A sandbox that has the files.
async fn prepare(engine: &Engine, plan: &Plan, args: &RunArgs) -> Result<Sandbox, Failure> {
    let mut builder = engine.sandbox().language(plan.language);
    if let Some(network) = &plan.network {
        builder = builder.network(network.clone());
    }
    let shown = DisplayedValues::new(args.quiet);
    let builder = args.packages.build(builder, &shown);
    let sandbox = builder.memory_mib(args.memory).await;
    shown.finish();
    let sandbox = sandbox?;
    if !args.quiet {
        network::greet(&sandbox);
    }
    for upload in &plan.uploads {
        upload.go(&sandbox.files()).await?;
    }
    Ok(sandbox)
}

/// Copies what is asked for out of the VM, where there still is one.
async fn fetch<'a>(
    sandbox: &Sandbox,
    ended_by: EndedBy,
    downloads: &'a [Download],
) -> Vec<(&'a Download, Downloaded)> {
    let is_lost = ended_by == EndedBy::AgentLost;
    let mut all = Vec::with_capacity(downloads.len());
    for download in downloads {
        let came = match is_lost {
            true => Err("the VM was lost".to_string()),
            false => download
                .go(&sandbox.files())
                .await
                .map_err(|e| format!("{e:#}")),
        };
        all.push((download, came));
    }
    all
}

/// Says what there is to say and returns the exit code.
fn report(end: End<'_>, output: &Output, args: &RunArgs) -> anyhow::Result<u8> {
    Ok(match end {
        End::Ended(outcome, downloads) => {
            if let Output::Kept(kept) = output {
                say(&json::outcome(&outcome, kept, args.display, &downloads))?;
            } else if !args.quiet {
                explain(&outcome, limit(args), args.memory);
                if let Some(network) = &outcome.network {
                    network::denied(network);
                }
            }
            match (exit_code(&outcome), missing(&downloads)) {
                (0, true) => FAILURE,
                (code, _) => code,
            }
        }
        End::Failed(failure) => {
            if args.json {
                say(&json::failure(
                    &failure.kind,
                    &failure.retry,
                    &failure.message,
                ))?;
            }
            complain(&failure.message);
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

/// Says which downloads have failed; whether any has.
fn missing(downloads: &[(&Download, Downloaded)]) -> bool {
    let mut any = false;
    for (download, came) in downloads {
        if let Err(message) = came {
            complain(&format!("--download {}: {message}", download.remote));
            any = true;
        }
    }
    any
}

fn limit(args: &RunArgs) -> u64 {
    if args.timeout == 0 {
        args.max_timeout
    } else {
        args.timeout
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
    if args.stdin && file == Some(Path::new("-")) {
        bail!("standard input cannot be both the program (-) and its input (--stdin)");
    }
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
