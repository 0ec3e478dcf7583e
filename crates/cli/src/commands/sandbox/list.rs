//! `sandbox ls` and `sandbox inspect`.

use serde_json::Value;

use super::lookup::{SandboxInfo, find_any, list_all};
use crate::args::SandboxListArgs;
use crate::commands::format::print_table;
use crate::io::print_line;
use crate::server_client::ServerClient;

/// Prints a table of sandboxes, the newest first.
///
/// # Errors
/// The server does not answer as expected.
pub(super) async fn list(server: &ServerClient, args: &SandboxListArgs) -> anyhow::Result<u8> {
    let sandboxes = list_all(server, args.all).await?;
    if args.json {
        print_line(&Value::from(sandboxes))?;
        return Ok(0);
    }

    let sandboxes: Vec<_> = sandboxes
        .iter()
        .map(SandboxInfo::parse)
        .collect::<anyhow::Result<_>>()?;
    if args.quiet {
        for sandbox in &sandboxes {
            print_line(&sandbox.id)?;
        }
        return Ok(0);
    }

    let header = ["ID", "NAME", "STATE", "LANGUAGE", "MIB", "CREATED", "PORTS"];
    let rows = sandboxes.iter().map(row).collect::<Vec<_>>();
    print_table(&header, &rows)?;
    Ok(0)
}

fn row(sandbox: &SandboxInfo) -> [String; 7] {
    let text = |value: &Option<String>| value.clone().unwrap_or_else(|| "-".into());
    let state = match &sandbox.ended {
        Some(ended) => format!("{} ({ended})", sandbox.state),
        None => sandbox.state.clone(),
    };
    let ports = match sandbox.urls.len() {
        0 => "-".to_owned(),
        _ => sandbox.urls.join(" "),
    };

    [
        sandbox.id.clone(),
        text(&sandbox.name),
        state,
        text(&sandbox.language),
        sandbox.memory_mib.to_string(),
        sandbox.created_at.clone(),
        ports,
    ]
}

/// Prints everything about sandboxes.
///
/// # Errors
/// One of them does not exist, or the server does not answer as expected.
pub(super) async fn inspect(server: &ServerClient, words: &[String]) -> anyhow::Result<u8> {
    let mut sandboxes = Vec::new();
    for word in words {
        sandboxes.push(find_any(server, word).await?);
    }
    print_line(&format!("{:#}", Value::from(sandboxes)))?;
    Ok(0)
}
