//! `sandbox cp`: files and directories between this host and a sandbox.

use std::ffi::OsStr;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use bytes::Bytes;
use http_body_util::BodyExt;
use http_body_util::channel::Channel;
use hyper::body::Incoming;
use tempfile::NamedTempFile;
use tokio::io::{AsyncRead, AsyncReadExt};

use super::archive::{RemoteKind, download_dir, remote_kind, upload_dir};
use super::lookup::{SandboxInfo, find};
use crate::args::SandboxCopyArgs;
use crate::io::print_skipped;
use crate::server_client::{ServerClient, with_query};
use crate::transfer::{names_directory, to_text};

/// Maximum size of a file from a sandbox, in bytes: a guest can create a file of any size that takes no space there.
const MAX_FILE_BYTES: u64 = 1024 * 1024 * 1024;
/// Size of one read, in bytes.
const PIECE_BYTES: usize = 256 * 1024;
/// The number of pieces in flight.
const PIECES: usize = 4;
/// The permissions that a file from a sandbox may have, where the umask allows them.
const ALLOWED_MODE: u32 = 0o755;

/// One side of a copy.
#[derive(Debug, PartialEq, Eq)]
enum Place {
    Local(PathBuf),
    Remote {
        sandbox: String,
        path: String,
    },
    /// Standard input or output.
    Stream,
}

impl Place {
    /// Parses `PATH`, `SANDBOX:PATH` or `-`. A local path with a colon is written with a `/` before it, as in `./a:b`.
    fn parse(arg: &OsStr) -> anyhow::Result<Self> {
        if arg == "-" {
            return Ok(Self::Stream);
        }

        let remote = arg.to_str().and_then(|text| text.split_once(':'));
        match remote {
            Some((sandbox, path)) if !sandbox.is_empty() && !sandbox.contains('/') => {
                let path = if path.is_empty() { "." } else { path };
                Ok(Self::Remote {
                    sandbox: sandbox.to_owned(),
                    path: path.to_owned(),
                })
            }
            _ => Ok(Self::Local(arg.into())),
        }
    }
}

/// Copies a file or directory.
///
/// # Errors
/// Exactly one side must be a sandbox; and those of reading and writing.
pub(super) async fn copy(server: &ServerClient, args: &SandboxCopyArgs) -> anyhow::Result<u8> {
    let (source, destination) = (
        Place::parse(&args.source)?,
        Place::parse(&args.destination)?,
    );
    match (source, destination) {
        (Place::Local(local), Place::Remote { sandbox, path }) => {
            let sandbox = find(server, &sandbox).await?;
            let path = place_into(server, &sandbox, &local, &path).await?;
            upload(server, &sandbox, &local, &path).await?;
        }
        (Place::Stream, Place::Remote { sandbox, path }) => {
            let sandbox = find(server, &sandbox).await?;
            upload_content(server, &sandbox, tokio::io::stdin(), &path, None).await?;
        }
        (Place::Remote { sandbox, path }, Place::Local(local)) => {
            let sandbox = find(server, &sandbox).await?;
            download(server, &sandbox, &path, &local).await?;
        }
        (Place::Remote { sandbox, path }, Place::Stream) => {
            let sandbox = find(server, &sandbox).await?;
            let body = server
                .download(&sandbox.file_path("/content", &path))
                .await?;
            write_content(body, &mut io::stdout().lock(), u64::MAX).await?;
        }
        _ => bail!(
            "one of source and destination must be SANDBOX:PATH, and the other a local path or -"
        ),
    }
    Ok(0)
}

/// Returns the destination of a local file or directory: in `path` if that is an existing directory or ends in `/`.
async fn place_into(
    server: &ServerClient,
    sandbox: &SandboxInfo,
    local: &Path,
    path: &str,
) -> anyhow::Result<String> {
    let is_directory = names_directory(path.as_ref())
        || remote_kind(server, sandbox, path).await? == Some(RemoteKind::Directory);
    if !is_directory {
        return Ok(path.to_owned());
    }

    let absolute = local.canonicalize();
    let name = match local.file_name() {
        Some(name) => name.to_owned(),
        None => absolute?.file_name().unwrap_or_default().to_owned(),
    };
    Ok(format!(
        "{}/{}",
        path.trim_end_matches('/'),
        to_text(&name)?
    ))
}

/// Copies a local file or directory to a path of the sandbox.
///
/// # Errors
/// It cannot be read, or the sandbox cannot store it.
pub(super) async fn upload(
    server: &ServerClient,
    sandbox: &SandboxInfo,
    local: &Path,
    path: &str,
) -> anyhow::Result<()> {
    let shown = local.display();
    let metadata = std::fs::metadata(local).with_context(|| format!("cannot read {shown}"))?;
    if metadata.is_dir() {
        let skipped = upload_dir(server, sandbox, local, path).await?;
        print_skipped(&format!("copy of {shown}"), &skipped);
        return Ok(());
    }

    let file = tokio::fs::File::open(local).await;
    let file = file.with_context(|| format!("cannot read {shown}"))?;
    // A pipe has no useful permissions.
    let mode = metadata
        .is_file()
        .then(|| metadata.permissions().mode() & 0o777);
    upload_content(server, sandbox, file, path, mode).await
}

async fn upload_content(
    server: &ServerClient,
    sandbox: &SandboxInfo,
    mut from: impl AsyncRead + Unpin + Send + 'static,
    path: &str,
    mode: Option<u32>,
) -> anyhow::Result<()> {
    let (mut body, content) = Channel::new(PIECES);
    let sending = tokio::spawn(async move {
        loop {
            let mut piece = vec![0; PIECE_BYTES];
            match from.read(&mut piece).await {
                Ok(0) => return Ok(()),
                Ok(len) => {
                    piece.truncate(len);
                    // The server's answer says why it takes no more.
                    if body.send_data(Bytes::from(piece)).await.is_err() {
                        return Ok(());
                    }
                }
                Err(error) => {
                    body.abort(io::Error::other(error.to_string()));
                    return Err(error);
                }
            }
        }
    });

    let mode = mode.map(|mode| format!("{mode:o}"));
    let mut parameters = vec![("path", path), ("parents", "true")];
    parameters.extend(mode.as_deref().map(|mode| ("mode", mode)));
    let target = with_query(&format!("{}/files/content", sandbox.path()), &parameters);
    let uploaded = server.upload(&target, content).await;
    // An answer that comes early leaves standard input unread.
    if uploaded.is_err() && !sending.is_finished() {
        sending.abort();
    }
    if let Ok(read) = sending.await {
        read.context("cannot read the content")?;
    }
    uploaded
}

/// Copies a file or directory of the sandbox to a local path, or into it if that is an existing directory.
async fn download(
    server: &ServerClient,
    sandbox: &SandboxInfo,
    path: &str,
    local: &Path,
) -> anyhow::Result<()> {
    let Some(kind) = remote_kind(server, sandbox, path).await? else {
        bail!(
            "no file or directory {} in the sandbox",
            path.escape_debug()
        );
    };

    let target = if local.is_dir() || names_directory(local.as_os_str()) {
        match Path::new(path).file_name() {
            Some(name) => local.join(name),
            // The content of a directory such as `.`.
            None => local.to_path_buf(),
        }
    } else {
        local.to_path_buf()
    };
    match kind {
        RemoteKind::Directory => {
            let skipped = download_dir(server, sandbox, path, &target).await?;
            print_skipped(&format!("copy of {}", path.escape_debug()), &skipped);
            Ok(())
        }
        RemoteKind::File { mode } => {
            let body = server
                .download(&sandbox.file_path("/content", path))
                .await?;
            download_file(body, &target, mode).await
        }
    }
}

/// Writes a file completely or not at all. A link at the path is replaced, not followed; a device is written to.
async fn download_file(body: Incoming, target: &Path, mode: u32) -> anyhow::Result<()> {
    let shown = target.display();
    let existing = std::fs::symlink_metadata(target);
    if existing.is_ok_and(|found| !found.is_file() && !found.is_symlink()) {
        let mut file = std::fs::File::options().write(true).open(target);
        let file = file.as_mut();
        let file = file.map_err(|error| anyhow::anyhow!("cannot write {shown}: {error}"))?;
        return write_content(body, file, MAX_FILE_BYTES).await;
    }

    let directory = match target.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let mut file = NamedTempFile::with_prefix_in(".fumehood-", directory)
        .with_context(|| format!("cannot write {shown}"))?;
    write_content(body, file.as_file_mut(), MAX_FILE_BYTES).await?;

    let umask = current_umask();
    let permissions = PermissionsExt::from_mode(mode & ALLOWED_MODE & !umask);
    file.as_file().set_permissions(permissions)?;
    file.persist(target)
        .with_context(|| format!("cannot write {shown}"))?;
    Ok(())
}

/// Returns the umask. It can only be read by setting it, which no other thread may notice: this command creates files only
/// here.
fn current_umask() -> u32 {
    let mask = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    rustix::process::umask(mask);
    mask.as_raw_mode()
}

async fn write_content(
    mut body: Incoming,
    to: &mut (impl Write + ?Sized),
    max_bytes: u64,
) -> anyhow::Result<()> {
    let mut written = 0;
    while let Some(frame) = body.frame().await {
        let frame = frame.context("the copy from the sandbox ended early")?;
        let Ok(bytes) = frame.into_data() else {
            continue;
        };

        written += bytes.len() as u64;
        if written > max_bytes {
            bail!("the file has more than {max_bytes} bytes, the maximum for a copy");
        }
        to.write_all(&bytes)?;
    }
    Ok(to.flush()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_of_a_copy() {
        let parse = |arg: &str| Place::parse(OsStr::new(arg)).unwrap();
        let remote = |sandbox: &str, path: &str| Place::Remote {
            sandbox: sandbox.into(),
            path: path.into(),
        };
        assert_eq!(parse("sb_1:/tmp/a:b"), remote("sb_1", "/tmp/a:b"));
        assert_eq!(parse("web:"), remote("web", "."));
        assert_eq!(parse("-"), Place::Stream);
        for local in ["a", "./a:b", "/x/a:b", ":a", "a/b:c"] {
            assert_eq!(parse(local), Place::Local(local.into()), "{local}");
        }
    }
}
