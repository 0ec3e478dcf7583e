//! Runs the program on a running `fumehood serve` of this user.

use fumehood_engine::Config;
use fumehood_engine::image::Store;
use serde_json::{Map, Value, json};

use super::backend::RunBackend;
use super::follow::{RunEnd, follow};
use super::plan::Program;
use crate::args::{HostArgs, RunArgs};
use crate::io::{Interrupts, Output};
use crate::server_client::{ServerClient, StartedRun};

/// Runs the program on the server. Returns `None` if there is no suitable server, or it rejected the run before starting
/// anything: this process then runs the program itself.
///
/// # Errors
/// The output cannot be written.
pub(super) async fn run(
    program: &Program,
    args: &RunArgs,
    host: &HostArgs,
    output: &mut Output,
    interrupts: &mut Interrupts,
) -> anyhow::Result<Option<RunEnd>> {
    if !program.packages.is_empty() || !is_eligible(args, host) {
        return Ok(None);
    }
    // An error of the image is reported by the engine in this process.
    let Some(image) = default_image_id() else {
        return Ok(None);
    };

    let start = async {
        let client = ServerClient::find(&image, args.effective_timeout()).await?;
        let body = request_body(program, args);
        Some(client.start_run("/v1/runs", &body).await)
    };
    let started = tokio::select! {
        started = start => started,
        _ = interrupts.next() => return Ok(Some(RunEnd::Abandoned)),
    };

    Ok(match started {
        None | Some(Ok(StartedRun::Draining(_))) => None,
        Some(Ok(StartedRun::Running(run))) => {
            let run = RunBackend::Server(run);
            Some(follow(run, args, output, interrupts).await?)
        }
        Some(Err(failure)) => Some(RunEnd::Failed(failure)),
    })
}

/// Returns the ID of the image that this command would use.
fn default_image_id() -> Option<String> {
    let store = Store::open(Store::default_root().ok()?).ok()?;
    let image = store.image(&Config::default().image).ok()?;
    Some(image.id().to_owned())
}

/// Returns whether a server would do exactly what this process does. Runs with files, a network, packages or options about
/// the host are not left to a server.
fn is_eligible(args: &RunArgs, host: &HostArgs) -> bool {
    let has_default_host = host.is_default() && !args.boot && !args.has_custom_max_timeout();
    let has_transfers = !args.uploads.upload.is_empty()
        || !args.download.is_empty()
        || !args.mounts.mount.is_empty();

    !args.no_server && has_default_host && !has_transfers && args.network.is_empty()
}

/// Returns the body of `POST /v1/runs`.
fn request_body(program: &Program, args: &RunArgs) -> Value {
    // Planning has read the variables before: none is missing.
    let variables = args.environment.variables().unwrap_or_default();
    let env: Map<_, _> = variables
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value.into()))
        .collect();

    json!({
        "language": program.language,
        "code": program.code,
        "args": args.args,
        "env": env,
        "cwd": args.cwd,
        "timeout_s": args.effective_timeout(),
        "memory_mib": args.memory,
        "stdin": args.forwards_stdin(),
        "display": args.display,
        "fresh_interpreter": args.fresh_interpreter,
    })
}
