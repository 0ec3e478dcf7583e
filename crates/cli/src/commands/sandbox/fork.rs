//! `sandbox fork`.

use serde_json::json;

use super::lookup::{SandboxInfo, find};
use crate::args::SandboxForkArgs;
use crate::folder_sync::MountRecord;
use crate::io::print_line;
use crate::server_client::ServerClient;

/// Forks a sandbox, and prints the ids of the copies.
///
/// # Errors
/// There is no such sandbox, or it cannot be forked.
pub(super) async fn fork(server: &ServerClient, args: &SandboxForkArgs) -> anyhow::Result<u8> {
    let sandbox = find(server, &args.sandbox).await?;
    let path = format!("{}/fork", sandbox.path());
    let mut answer = server.post(&path, &json!({ "count": args.count })).await?;

    let copies = answer["sandboxes"].take();
    let ids: Vec<_> = copies
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default()
        .iter()
        .map(|copy| Ok(SandboxInfo::parse(copy)?.id))
        .collect::<anyhow::Result<_>>()?;

    // The copies have the same folders.
    if let Some(record) = MountRecord::load(&sandbox.id)? {
        for id in &ids {
            record.copy_to(id)?;
        }
    }

    if args.json {
        print_line(&copies)?;
        return Ok(0);
    }
    for id in &ids {
        print_line(id)?;
    }
    Ok(0)
}
