//! `fumehood sandboxes`: lists and ends the sandboxes of a server, for its operator.

use std::process::ExitCode;

use serde_json::Value;

use crate::args::{SandboxesArgs, SandboxesCommand};
use crate::commands::runtime::start_runtime;
use crate::io::print_line;
use crate::server_client::{Method, ServerClient, path_segment};

/// Where the server has the sandboxes of all owners.
const PATH: &str = "/v1/operator/sandboxes";

pub(crate) fn run(args: &SandboxesArgs) -> anyhow::Result<ExitCode> {
    start_runtime()?.block_on(async {
        let server = ServerClient::at(args.socket.clone()).await;
        match &args.command {
            SandboxesCommand::List { key } => list(&server, key.as_deref()).await?,
            SandboxesCommand::End { id } => {
                let path = format!("{PATH}/{}", path_segment(id)?);
                server.request(Method::DELETE, &path).await?;
            }
        }
        Ok(ExitCode::SUCCESS)
    })
}

async fn list(server: &ServerClient, key: Option<&str>) -> anyhow::Result<()> {
    let path = match key {
        Some(key) => format!("{PATH}?key={}", path_segment(key)?),
        None => PATH.to_owned(),
    };

    let answer = server.request(Method::GET, &path).await?;
    let sandboxes = answer["sandboxes"].as_array();
    for owned in sandboxes.into_iter().flatten() {
        let sandbox = &owned["sandbox"];
        // Names are chosen by the callers: control characters must not reach the terminal.
        let text = |value: &Value| {
            let text = value.as_str().unwrap_or("-");
            text.replace(char::is_control, "\u{fffd}")
        };
        print_line(&format!(
            "{}\t{}\t{}\t{}\t{}",
            text(&sandbox["id"]),
            owned["key"].as_str().unwrap_or(&text(&owned["owner"])),
            text(&sandbox["created_at"]),
            sandbox["memory_mib"],
            text(&sandbox["name"]),
        ))?;
    }
    Ok(())
}
