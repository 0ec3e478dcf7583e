//! `sandbox create`.

use std::collections::HashSet;

use anyhow::{Context, bail};
use serde_json::{Value, json};

use super::archive::{remote_kind, upload_dir};
use super::copy::upload;
use super::lookup::{SandboxInfo, list_all};
use crate::args::SandboxCreateArgs;
use crate::folder_sync::{Mount, MountRecord};
use crate::io::{print_exposed_port, print_line, print_skipped};
use crate::server_client::{Method, ServerClient};
use crate::transfer::Upload;

/// Creates a sandbox and prints its id.
///
/// # Errors
/// It cannot be created, or files cannot be copied into it: then it is ended again.
pub(super) async fn create(server: &ServerClient, args: &SandboxCreateArgs) -> anyhow::Result<u8> {
    // Everything on this host is checked before anything is started.
    let uploads = Upload::parse_all(&args.uploads.upload)?;
    let mounts = Mount::parse_all(&args.mounts.mount)?;
    let body = request_body(args)?;

    let created = server.post("/v1/sandboxes", &body).await?;
    let sandbox = SandboxInfo::parse(&created)?;
    if let Err(error) = copy_files(server, &sandbox, &uploads, mounts).await {
        MountRecord::remove(&sandbox.id);
        let ended = server.request(Method::DELETE, &sandbox.path()).await;
        return Err(match ended {
            Ok(_) => error.context("the sandbox was ended again"),
            Err(_) => error.context(format!("the sandbox {} is not complete", sandbox.id)),
        });
    }

    for url in &sandbox.urls {
        print_exposed_port(url);
    }
    if args.json {
        print_line(&created)?;
    } else {
        print_line(&sandbox.id)?;
    }
    Ok(0)
}

/// Copies files and mounted folders into a new sandbox.
async fn copy_files(
    server: &ServerClient,
    sandbox: &SandboxInfo,
    uploads: &[Upload],
    mounts: Vec<Mount>,
) -> anyhow::Result<()> {
    for file in uploads {
        upload(server, sandbox, &file.local, &file.remote)
            .await
            .with_context(|| format!("--upload {}", file.local.display()))?;
    }

    for mount in &mounts {
        let action = format!("--mount {}", mount.local.display());
        let existing = remote_kind(server, sandbox, &mount.remote);
        if existing.await.with_context(|| action.clone())?.is_some() {
            let remote = &mount.remote;
            bail!("{action}: {remote} exists in the VM already; choose another path");
        }

        let skipped = upload_dir(server, sandbox, &mount.local, &mount.remote);
        let skipped = skipped.await.with_context(|| action.clone())?;
        print_skipped(&action, &skipped);
    }

    if !mounts.is_empty() {
        let used: HashSet<_> = list_all(server, false)
            .await?
            .iter()
            .filter_map(|sandbox| sandbox["id"].as_str().map(str::to_owned))
            .collect();
        MountRecord::prune(|id| used.contains(id));
        MountRecord::new(&sandbox.id, mounts).save()?;
    }
    Ok(())
}

/// Returns the body of the request. Fields that no option sets are left out.
fn request_body(args: &SandboxCreateArgs) -> anyhow::Result<Value> {
    let fields = [
        ("name", json!(args.name)),
        ("language", json!(args.language)),
        ("memory_mib", json!(args.memory)),
        ("idle_timeout_s", json!(args.idle_timeout)),
        ("on_idle", json!(args.on_idle)),
        ("max_lifetime_s", json!(args.max_lifetime)),
        ("checkpoint", json!(args.checkpoint)),
        ("network", json!(args.network.request()?)),
        ("packages", json!(args.package)),
        ("refresh_packages", json!(args.refresh_packages)),
    ];

    let is_set = |(_, value): &(&str, Value)| match value {
        Value::Null | Value::Bool(false) => false,
        Value::Array(items) => !items.is_empty(),
        _ => true,
    };
    let set = fields.into_iter().filter(is_set);
    Ok(set.map(|(name, value)| (name.to_owned(), value)).collect())
}
