//! `sandbox run`: code in a context of a sandbox.

use std::path::Path;

use fumehood_engine::Language;
use serde_json::{Map, Value, json};

use super::follow::{report, start, start_detached, write_output};
use super::lookup::{SandboxInfo, find};
use crate::args::SandboxRunArgs;
use crate::commands::run::read_code;
use crate::exit_code::{FAILURE, INTERRUPTED};
use crate::io::{CancelGuard, Interrupts, eprint_message, print_line};
use crate::server_client::ServerClient;

/// The context of code that names none, as in the SDK.
const DEFAULT_CONTEXT: &str = "main";

/// Runs code. The first interrupt cancels it and keeps the context if possible; the second one leaves it.
///
/// # Errors
/// There is no such sandbox, or the code cannot be started.
pub(super) async fn run(
    server: &ServerClient,
    args: &SandboxRunArgs,
    interrupts: &mut Interrupts,
) -> anyhow::Result<u8> {
    let start_run = async {
        let sandbox = find(server, &args.sandbox).await?;
        let body = request_body(args, &sandbox)?;
        Ok::<_, anyhow::Error>((sandbox, body))
    };
    let (sandbox, body) = tokio::select! {
        found = start_run => found?,
        _ = interrupts.next() => return Ok(INTERRUPTED),
    };

    let path = format!("{}/runs", sandbox.path());
    if args.detach {
        return start_detached(server, &path, body).await;
    }
    if args.json {
        return run_to_json(server, &path, &body, interrupts).await;
    }

    let run = start(server, &path, &body).await?;
    let forwards_stdin = args.input.forwards_stdin(has_program(args));
    let _stdin = forwards_stdin.then(|| run.forward_stdin());
    let mut guard = CancelGuard::new(interrupts, run.canceller());
    Ok(match guard.wait(write_output(run)).await {
        None => INTERRUPTED,
        Some(outcome) => report(&outcome?, args.timeout, sandbox.memory_mib),
    })
}

/// Runs code, and prints the run as one JSON object. An interrupt ends the connection, after which the server cancels the run.
async fn run_to_json(
    server: &ServerClient,
    path: &str,
    body: &Value,
    interrupts: &mut Interrupts,
) -> anyhow::Result<u8> {
    let run = tokio::select! {
        run = server.post(path, body) => run?,
        _ = interrupts.next() => return Ok(INTERRUPTED),
    };
    print_line(&run)?;

    let code = run["exit_code"].as_u64();
    Ok(code
        .and_then(|code| u8::try_from(code).ok())
        .unwrap_or(FAILURE))
}

/// Returns whether standard input contains the program.
fn has_program(args: &SandboxRunArgs) -> bool {
    args.file.as_deref() == Some(Path::new("-"))
}

fn request_body(args: &SandboxRunArgs, sandbox: &SandboxInfo) -> anyhow::Result<Value> {
    let code = match (&args.file, &args.code) {
        (Some(file), _) => read_code(file)?,
        (None, code) => code.clone().unwrap_or_default(),
    };
    let language = language(args, sandbox);
    let variables = args.environment.variables()?.into_iter();
    let env: Map<_, _> = variables
        .map(|(name, value)| (name.to_owned(), value.into()))
        .collect();

    // The interactive input of `run --json` would need events.
    let forwards_stdin = args.input.forwards_stdin(has_program(args));
    let has_stdin = forwards_stdin && !args.json && !args.detach;
    if forwards_stdin && !has_stdin && args.input.stdin {
        eprint_message("standard input is not forwarded with --json or --detach");
    }

    Ok(json!({
        "language": language,
        "code": code,
        "args": args.args,
        "env": env,
        "cwd": args.cwd,
        "timeout_s": args.timeout,
        "stdin": has_stdin,
        "display": args.display,
        "context": context(args, language, sandbox),
    }))
}

fn language(args: &SandboxRunArgs, sandbox: &SandboxInfo) -> Language {
    let extension = args.file.as_deref().and_then(Path::extension);
    let by_extension = || Language::from_extension(extension?.to_str()?);
    let chosen = args.language.or_else(by_extension);
    chosen.unwrap_or_else(|| main_language(sandbox))
}

/// Returns the language of code that names none.
fn main_language(sandbox: &SandboxInfo) -> Language {
    let language = sandbox.language.as_deref();
    let known = language.and_then(|name| name.parse().ok());
    known.unwrap_or(Language::Python)
}

/// Returns the context of the code: each language has one, with the names that the SDK gives them.
fn context(args: &SandboxRunArgs, language: Language, sandbox: &SandboxInfo) -> Option<String> {
    if args.no_context {
        return None;
    }
    Some(match &args.context {
        Some(context) => context.clone(),
        None if language == main_language(sandbox) => DEFAULT_CONTEXT.to_owned(),
        None => format!("{DEFAULT_CONTEXT}-{language}"),
    })
}
