//! Directories between this host and a sandbox, as tar streams. The engine packs and unpacks them on this side.

use std::io;
use std::path::Path;

use anyhow::{Context, bail};
use bytes::Bytes;
use fumehood_engine::{SkippedFiles, pack_directory, unpack_directory};
use http_body_util::BodyExt;
use http_body_util::channel::Channel;
use hyper::body::Incoming;
use serde_json::Value;
use tokio::sync::mpsc;

use super::lookup::SandboxInfo;
use crate::server_client::{Method, ServerClient, with_query};

/// The number of chunks in flight.
const CHUNKS: usize = 16;

/// The number of left-out files that are listed; the others are counted.
const MAX_LISTED: usize = 200;

/// The trailer of a complete archive: the files that were left out, as JSON.
const SKIPPED_TRAILER: &str = "fumehood-skipped";

impl SandboxInfo {
    /// Returns the path of an action about the file at a path of the sandbox.
    pub(super) fn file_path(&self, action: &str, path: &str) -> String {
        with_query(&format!("{}/files{action}", self.path()), &[("path", path)])
    }
}

/// Returns the kind of the file at a path, with links followed: `None` if there is none.
///
/// # Errors
/// The server does not answer as expected.
pub(super) async fn remote_kind(
    server: &ServerClient,
    sandbox: &SandboxInfo,
    path: &str,
) -> anyhow::Result<Option<RemoteKind>> {
    // A path that ends in `/.` is that of a directory, if there is one.
    let as_directory = sandbox.file_path("/stat", &format!("{path}/."));
    if server.request(Method::GET, &as_directory).await.is_ok() {
        return Ok(Some(RemoteKind::Directory));
    }

    let stat = server
        .request(Method::GET, &sandbox.file_path("/stat", path))
        .await;
    match stat {
        Ok(stat) => Ok(Some(RemoteKind::File {
            mode: mode_of(&stat),
        })),
        Err(error) if is_not_found(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The kind of a file in a sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RemoteKind {
    Directory,
    /// A file, or a link to one, or anything else; with its permissions.
    File {
        mode: u32,
    },
}

fn mode_of(stat: &Value) -> u32 {
    let is_file = stat["kind"] == "file";
    let mode = stat["mode"].as_u64().filter(|_| is_file);
    mode.and_then(|mode| u32::try_from(mode).ok())
        .unwrap_or(0o644)
}

/// Returns whether an error means that there is no such file.
fn is_not_found(error: &anyhow::Error) -> bool {
    let failure = error.downcast_ref::<crate::outcome::Failure>();
    failure.is_some_and(|failure| {
        failure.kind == "not_found"
            || failure.kind == "invalid" && failure.message.contains("No such file")
    })
}

/// Copies a directory of this host into a directory of the sandbox, which is created if it does not exist. Returns the files
/// that were left out.
///
/// # Errors
/// The directory cannot be read, or the sandbox cannot store it.
pub(super) async fn upload_dir(
    server: &ServerClient,
    sandbox: &SandboxInfo,
    local: &Path,
    remote: &str,
) -> anyhow::Result<SkippedFiles> {
    let shown = local.display().to_string();
    std::fs::read_dir(local).with_context(|| format!("cannot read {shown}"))?;

    let (sender, mut chunks) = mpsc::channel::<Bytes>(CHUNKS);
    let source = local.to_path_buf();
    let packing = tokio::task::spawn_blocking(move || pack_directory(&source, sender));

    let (mut body, content) = Channel::new(CHUNKS);
    let sending = tokio::spawn(async move {
        while let Some(chunk) = chunks.recv().await {
            // The server's answer says why it takes no more.
            if body.send_data(chunk).await.is_err() {
                return Ok(SkippedFiles::default());
            }
        }

        // A stream that is not complete must not look like one.
        let packed = packing.await.unwrap_or_else(|e| Err(io::Error::other(e)));
        if let Err(error) = &packed {
            body.abort(io::Error::other(error.to_string()));
        }
        packed
    });

    let path = sandbox.file_path("/archive", remote);
    let uploaded = server.upload(&path, content).await;
    let packed = sending.await?;
    let skipped = packed.with_context(|| format!("cannot read {shown}"))?;
    uploaded.with_context(|| format!("cannot copy {shown} to {remote}"))?;
    Ok(skipped)
}

/// Copies a directory of the sandbox into a directory of this host, with the checks and limits of the engine. Returns the
/// files that were left out.
///
/// # Errors
/// There is no such directory, the stream is invalid or incomplete, or this host cannot store it.
pub(super) async fn download_dir(
    server: &ServerClient,
    sandbox: &SandboxInfo,
    remote: &str,
    local: &Path,
) -> anyhow::Result<SkippedFiles> {
    let path = sandbox.file_path("/archive", remote);
    let body = server.download(&path).await?;
    let (sender, chunks) = mpsc::channel::<Bytes>(CHUNKS);
    let target = local.to_path_buf();
    let unpacking = tokio::task::spawn_blocking(move || unpack_directory(&target, chunks));

    let received = receive(body, sender).await;
    let shown = remote.escape_debug();
    let unpacked = unpacking.await.unwrap_or_else(|e| Err(io::Error::other(e)));
    let mut skipped = match (unpacked, received) {
        // The connection explains why a stream is not complete.
        (Err(error), received) if error.kind() == io::ErrorKind::UnexpectedEof => {
            received?;
            bail!("the copy of {shown} ended early");
        }
        (unpacked, received) => {
            let unpacked = unpacked.with_context(|| {
                let local = local.display();
                format!("cannot copy {shown} to {local}")
            })?;
            append(unpacked, &received?)
        }
    };
    skipped.files.truncate(MAX_LISTED);
    Ok(skipped)
}

/// Receives a stream, and returns the files that the guest's tar left out.
async fn receive(mut body: Incoming, to: mpsc::Sender<Bytes>) -> anyhow::Result<SkippedFiles> {
    let incomplete = "the copy from the sandbox ended early";
    let mut skipped = None;
    while let Some(frame) = body.frame().await {
        let frame = frame.context(incomplete)?;
        match frame.into_data() {
            // A thread that has ended has its own error.
            Ok(bytes) => {
                if to.send(bytes).await.is_err() {
                    return Ok(SkippedFiles::default());
                }
            }
            Err(frame) => {
                let trailers = frame.into_trailers().unwrap_or_default();
                let text = trailers.get(SKIPPED_TRAILER);
                skipped = text.and_then(|text| serde_json::from_str(text.to_str().ok()?).ok());
            }
        }
    }
    skipped.context(incomplete)
}

/// Adds the files that the guest left out to those that this side left out.
fn append(mut skipped: SkippedFiles, more: &SkippedFiles) -> SkippedFiles {
    skipped.count = skipped.count.saturating_add(more.count);
    skipped.failed = skipped.failed.saturating_add(more.failed);
    skipped.files.extend(more.files.iter().cloned());
    skipped
}
