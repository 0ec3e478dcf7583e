//! `sandbox logs`: the output of what ran in a sandbox, and its events.

use anyhow::bail;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use fumehood_engine::Event;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::lookup::{SandboxInfo, find_any};
use crate::args::SandboxLogsArgs;
use crate::io::{Output, eprint_message, print_line};
use crate::server_client::{Method, ServerClient, ServerRun, path_segment, with_query};

/// The maximum number of runs whose output is printed: the maximum of one list.
const MAX_RUNS: &str = "1000";
/// The number of events of followed runs that wait for the output.
const WAITING_EVENTS: usize = 64;

/// Prints the output of runs, or the events of a sandbox.
///
/// # Errors
/// There is no such sandbox or run, or the output cannot be written.
pub(super) async fn logs(server: &ServerClient, args: &SandboxLogsArgs) -> anyhow::Result<u8> {
    let sandbox = SandboxInfo::parse(&find_any(server, &args.sandbox).await?)?;
    if args.events {
        print_events(server, &sandbox).await?;
        return Ok(0);
    }

    let mut output = Output::to_streams();
    let mut active = Vec::new();
    for id in run_ids(server, &sandbox, args).await? {
        let run = server
            .request(Method::GET, &format!("/v1/runs/{}", path_segment(&id)?))
            .await?;
        if run["sandbox"] != sandbox.id.as_str() {
            bail!("run {id} is not one of sandbox {}", args.sandbox);
        }

        // Of several runs, each has a heading.
        if args.run.is_none() {
            eprint_message(&heading(&run));
        }
        if args.follow && is_active(&run) {
            active.push(id);
        } else {
            print_output(&run, &mut output).await?;
        }
    }

    follow(server, active, &mut output).await?;
    Ok(0)
}

/// Returns the ids of the runs to print, the oldest first.
async fn run_ids(
    server: &ServerClient,
    sandbox: &SandboxInfo,
    args: &SandboxLogsArgs,
) -> anyhow::Result<Vec<String>> {
    if let Some(id) = &args.run {
        return Ok(vec![path_segment(id)?.to_owned()]);
    }

    let parameters = [("sandbox", sandbox.id.as_str()), ("limit", MAX_RUNS)];
    let path = with_query("/v1/runs", &parameters);
    let answer = server.request(Method::GET, &path).await?;
    let runs = answer["runs"].as_array().map(Vec::as_slice);
    let ids = runs.unwrap_or_default().iter().rev();
    Ok(ids
        .filter_map(|run| run["id"].as_str().map(str::to_owned))
        .collect())
}

fn is_active(run: &Value) -> bool {
    !matches!(run["state"].as_str(), Some("ended" | "failed"))
}

fn heading(run: &Value) -> String {
    let text = |field: &str| run[field].as_str().unwrap_or("-");
    let state = match (text("state"), run["exit_code"].as_i64()) {
        ("ended", Some(code)) => format!("{}, exit code {code}", text("ended_by")),
        ("ended", None) => text("ended_by").to_owned(),
        (state, _) => state.to_owned(),
    };
    format!(
        "run {} ({}, {state}) of {}",
        text("id"),
        text("kind"),
        text("created_at")
    )
}

/// Prints the output of a run as far as the server keeps it.
async fn print_output(run: &Value, output: &mut Output) -> anyhow::Result<()> {
    let stdout = Event::Stdout(stream(run, "stdout"));
    let stderr = Event::Stderr(stream(run, "stderr"));
    for event in [stdout, stderr] {
        output.write_event(&event).await?;
    }

    if let Some(message) = run["error"]["message"].as_str() {
        eprint_message(message);
    }
    if run["stdout"].is_null() {
        eprint_message("the server keeps this output no longer");
    } else if run["stdout_truncated"] == true || run["stderr_truncated"] == true {
        eprint_message("the server has kept only a part of this output");
    }
    Ok(())
}

/// Returns the bytes of an output stream.
fn stream(run: &Value, name: &str) -> Bytes {
    let text = run[name].as_str().unwrap_or_default();
    match run[format!("{name}_encoding")].as_str() {
        Some("base64") => STANDARD.decode(text).unwrap_or_default().into(),
        _ => Bytes::copy_from_slice(text.as_bytes()),
    }
}

/// Prints the output of active runs until all have ended.
async fn follow(
    server: &ServerClient,
    ids: Vec<String>,
    output: &mut Output,
) -> anyhow::Result<()> {
    let (sender, mut events) = mpsc::channel(WAITING_EVENTS);
    for id in ids {
        let mut run = ServerRun::follow(server, &id).await?;
        let sender = sender.clone();
        tokio::spawn(async move {
            while let Some(event) = run.next().await {
                if sender.send(event).await.is_err() {
                    return;
                }
            }
        });
    }
    drop(sender);

    while let Some(event) = events.recv().await {
        output.write_event(&event).await?;
    }
    Ok(())
}

/// Prints the events of a sandbox as they happen, until it ends.
async fn print_events(server: &ServerClient, sandbox: &SandboxInfo) -> anyhow::Result<()> {
    let path = format!("{}/events", sandbox.path());
    let mut events = server.events(&path).await?;
    loop {
        let event = events.next().await?;
        print_line(&json!({ "event": event.name, "data": event.data }))?;
        if event.name == "ended" {
            return Ok(());
        }
    }
}
