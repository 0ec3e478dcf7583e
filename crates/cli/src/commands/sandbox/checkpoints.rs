//! `sandbox checkpoint`.

use serde_json::{Value, json};

use super::lookup::find;
use crate::args::SandboxCheckpointCommand;
use crate::commands::format::{MIB, print_table};
use crate::exit_code::FAILURE;
use crate::io::{eprint_message, error_text, print_line};
use crate::server_client::{Method, ServerClient, path_segment};

/// # Errors
/// The server refuses, or does not answer as expected.
pub(super) async fn run(
    server: &ServerClient,
    command: &SandboxCheckpointCommand,
) -> anyhow::Result<u8> {
    match command {
        SandboxCheckpointCommand::Create {
            sandbox,
            name,
            json,
        } => {
            create(server, sandbox, name.as_deref(), *json).await?;
        }
        SandboxCheckpointCommand::Ls { quiet, json } => list(server, *quiet, *json).await?,
        SandboxCheckpointCommand::Rm { checkpoints } => return delete(server, checkpoints).await,
    }
    Ok(0)
}

async fn create(
    server: &ServerClient,
    word: &str,
    name: Option<&str>,
    is_json: bool,
) -> anyhow::Result<()> {
    let sandbox = find(server, word).await?;
    let path = format!("{}/checkpoints", sandbox.path());
    let body = match name {
        Some(name) => json!({ "name": name }),
        None => json!({}),
    };
    let checkpoint = server.post(&path, &body).await?;

    if is_json {
        print_line(&checkpoint)?;
    } else {
        print_line(&text(&checkpoint["id"]))?;
    }
    Ok(())
}

async fn list(server: &ServerClient, is_quiet: bool, is_json: bool) -> anyhow::Result<()> {
    let mut answer = server.request(Method::GET, "/v1/checkpoints").await?;
    let checkpoints = answer["checkpoints"].take();
    if is_json {
        print_line(&checkpoints)?;
        return Ok(());
    }

    let checkpoints = checkpoints.as_array().map(Vec::as_slice);
    let checkpoints = checkpoints.unwrap_or_default();
    if is_quiet {
        for checkpoint in checkpoints {
            print_line(&text(&checkpoint["id"]))?;
        }
        return Ok(());
    }

    let row = |checkpoint: &Value| {
        let bytes = checkpoint["bytes"].as_u64().unwrap_or_default();
        [
            text(&checkpoint["id"]),
            text(&checkpoint["name"]),
            text(&checkpoint["sandbox"]),
            text(&checkpoint["language"]),
            bytes.div_ceil(MIB).to_string(),
            text(&checkpoint["created_at"]),
        ]
    };
    let rows: Vec<_> = checkpoints.iter().map(row).collect();
    let header = ["ID", "NAME", "SANDBOX", "LANGUAGE", "MIB", "CREATED"];
    print_table(&header, &rows)?;
    Ok(())
}

async fn delete(server: &ServerClient, ids: &[String]) -> anyhow::Result<u8> {
    let mut code = 0;
    for id in ids {
        let path = path_segment(id).map(|id| format!("/v1/checkpoints/{id}"));
        let deleted = match path {
            Ok(path) => server.request(Method::DELETE, &path).await.map(drop),
            Err(error) => Err(error),
        };
        match deleted {
            Ok(()) => print_line(id)?,
            Err(error) => {
                eprint_message(&error_text(&error));
                code = FAILURE;
            }
        }
    }
    Ok(code)
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or("-").to_owned()
}
