//! `sandbox stop`, `rm`, `pause` and `resume`.

use std::collections::HashSet;

use serde_json::json;

use super::lookup::{SandboxInfo, find, find_any, list_all};
use crate::args::SandboxEndArgs;
use crate::exit_code::FAILURE;
use crate::folder_sync::MountRecord;
use crate::io::{eprint_message, error_text, print_line};
use crate::server_client::{Method, ServerClient};

/// What happens to sandboxes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    End,
    Pause,
    Resume,
}

/// Ends, pauses or resumes sandboxes, and prints the name of each as it was given. To end one that has ended is no error. Goes
/// on after an error.
///
/// # Errors
/// The list cannot be read.
pub(super) async fn change(
    server: &ServerClient,
    args: &SandboxEndArgs,
    action: Action,
) -> anyhow::Result<u8> {
    let mut words = args.sandboxes.clone();
    if args.all {
        for sandbox in list_all(server, false).await? {
            words.push(SandboxInfo::parse(&sandbox)?.id);
        }
    }

    let mut code = 0;
    let mut seen = HashSet::new();
    for word in words.iter().filter(|word| seen.insert(*word)) {
        match change_one(server, word, action).await {
            Ok(()) => print_line(word)?,
            Err(error) => {
                eprint_message(&error_text(&error));
                code = FAILURE;
            }
        }
    }
    Ok(code)
}

async fn change_one(server: &ServerClient, word: &str, action: Action) -> anyhow::Result<()> {
    if action == Action::End {
        let sandbox = SandboxInfo::parse(&find_any(server, word).await?)?;
        server.request(Method::DELETE, &sandbox.path()).await?;
        MountRecord::remove(&sandbox.id);
        return Ok(());
    }

    let sandbox = find(server, word).await?;
    let verb = match action {
        Action::Resume => "resume",
        _ => "pause",
    };
    let path = format!("{}/{verb}", sandbox.path());
    server.post(&path, &json!({})).await?;
    Ok(())
}
