//! `sandbox diff`: what changed in the mounted host folders of a sandbox.

use anyhow::{Context, bail};
use tempfile::TempDir;

use super::archive::download_dir;
use super::lookup::find;
use crate::args::SandboxDiffArgs;
use crate::exit_code::FAILURE;
use crate::folder_sync::{MountRecord, SyncEnd, offer};
use crate::io::{is_stdout_terminal, print_skipped};
use crate::server_client::ServerClient;

/// Prints the changes as a patch, and takes them over on request.
///
/// # Errors
/// The sandbox has no mounted folder, or it cannot be copied or compared.
pub(super) async fn diff(server: &ServerClient, args: &SandboxDiffArgs) -> anyhow::Result<u8> {
    let sandbox = find(server, &args.sandbox).await?;
    let Some(mut record) = MountRecord::load(&sandbox.id)? else {
        bail!(
            "sandbox {} has no mounted folder; mount one with `fumehood sandbox create --mount FOLDER:REMOTE`",
            args.sandbox
        );
    };

    let wanted = args.path.as_deref().map(|path| path.trim_end_matches('/'));
    let is_wanted = |remote: &str| wanted.is_none_or(|wanted| wanted == remote);
    if !record.mounts.iter().any(|mount| is_wanted(&mount.remote)) {
        let remotes: Vec<_> = record.mounts.iter().map(|mount| &*mount.remote).collect();
        bail!(
            "no folder is mounted there; the mounted folders are: {}",
            remotes.join(", ")
        );
    }

    let mut is_complete = true;
    for mount in record
        .mounts
        .iter_mut()
        .filter(|mount| is_wanted(&mount.remote))
    {
        // Only this user can access the copy.
        let copies = TempDir::new().context("cannot create a temporary directory")?;
        let copy = copies.path().join("copy");
        let skipped = download_dir(server, &sandbox, &mount.remote, &copy).await?;
        print_skipped(&format!("copy of {}", mount.remote), &skipped);

        let patch = (&mut std::io::stdout(), is_stdout_terminal());
        let end = offer(mount, &copy, &skipped, &args.sync, patch).await?;
        is_complete &= end != SyncEnd::Incomplete;
    }

    if args.sync.sync_back {
        record.save()?;
    }
    Ok(if is_complete { 0 } else { FAILURE })
}
