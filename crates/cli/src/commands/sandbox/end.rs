//! `sandbox stop` and `sandbox rm`.

use std::collections::HashSet;

use super::lookup::{SandboxInfo, find_any, list_all};
use crate::args::SandboxEndArgs;
use crate::exit_code::FAILURE;
use crate::folder_sync::MountRecord;
use crate::io::{eprint_message, error_text, print_line};
use crate::server_client::{Method, ServerClient};

/// Ends sandboxes, and prints the name of each as it was given. One that has ended already is no error. Goes on after an
/// error.
///
/// # Errors
/// The list cannot be read.
pub(super) async fn end(server: &ServerClient, args: &SandboxEndArgs) -> anyhow::Result<u8> {
    let mut words = args.sandboxes.clone();
    if args.all {
        for sandbox in list_all(server, false).await? {
            words.push(SandboxInfo::parse(&sandbox)?.id);
        }
    }

    let mut code = 0;
    let mut seen = HashSet::new();
    for word in words.iter().filter(|word| seen.insert(*word)) {
        match end_one(server, word).await {
            Ok(()) => print_line(word)?,
            Err(error) => {
                eprint_message(&error_text(&error));
                code = FAILURE;
            }
        }
    }
    Ok(code)
}

async fn end_one(server: &ServerClient, word: &str) -> anyhow::Result<()> {
    let sandbox = SandboxInfo::parse(&find_any(server, word).await?)?;
    server.request(Method::DELETE, &sandbox.path()).await?;
    MountRecord::remove(&sandbox.id);
    Ok(())
}
