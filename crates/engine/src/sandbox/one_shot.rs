//! Runs that own their sandbox: files are copied in before the program starts, and out after it ended.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use fumehood_protocol::{Exec, FileInfo, FileKind};
use tokio::sync::mpsc;

use super::files::{Files, WriteOptions};
use super::local_file::{NewFile, file_target, reject_directory_link};
use super::sandbox::Sandbox;
use super::transfer_deadline::TransferDeadline;
use crate::error::{Error, ErrorKind};
use crate::run::{
    CANCELLED, Controls, Download, DownloadMemory, DownloadTarget, Event, NetworkEventForwarder,
    OutcomeBuilder, RunDriver, RunEnd, SkippedFiles, Transfers, UNREAD_TIMEOUT, UploadSource,
    VmOwner, upload_path,
};

/// A one-shot run with files.
pub(crate) struct OneShotRun {
    pub(crate) exec: Exec,
    pub(crate) timeout: Duration,
    pub(crate) transfers: Transfers,
    pub(crate) outcome: OutcomeBuilder,
}

impl Sandbox {
    /// Uploads files, runs one program, downloads files, and ends the sandbox.
    ///
    /// # Errors
    /// Fails if an upload fails: the code was not run. Otherwise as [`RunDriver::drive`]. A failed download is part of
    /// the outcome.
    pub(crate) async fn run_with_files(
        &self,
        run: OneShotRun,
        events: mpsc::Sender<Event>,
        controls: &mut Controls,
    ) -> Result<RunEnd, Error> {
        let OneShotRun {
            exec,
            timeout,
            mut transfers,
            outcome,
        } = run;

        let network = self.active_network();
        let forwarder =
            network.map(|network| NetworkEventForwarder::start(network, events.clone()));
        let files = self.files();
        let deadline = TransferDeadline::start(files.transferred());

        // A run that is cancelled now has not started its code.
        let uploads = std::mem::take(&mut transfers.uploads);
        let skipped = tokio::select! {
            uploaded = upload_all(&files, uploads) => uploaded?,
            error = deadline.expired() => return Err(error.in_context("the uploads failed")),
            () = controls.cancelled() => {
                let outcome = outcome.downloads(transfers.cancelled_downloads());
                return Ok(RunEnd::Outcome(Box::new(outcome.finish())));
            }
        };
        let outcome = outcome.skipped_uploads(skipped);

        let inner = self.inner();
        let owner = VmOwner::Sandbox(inner.lifetime.clone(), inner.lifetime.mark_active()?);
        let driver = RunDriver::exec(&inner.channel, exec, timeout, outcome, self.limits());
        let Some(outcome) = driver.drive(events.clone(), controls, owner).await? else {
            return Ok(RunEnd::Detached);
        };

        // Downloads are attempted however the program ended, unless the guest does not answer.
        let mut failure = outcome.guest_failure().map(str::to_owned);
        if failure.is_none() && !transfers.downloads.is_empty() {
            let event = tokio::time::timeout(UNREAD_TIMEOUT, events.send(Event::ProgramEnded));
            tokio::select! {
                // A caller that does not read its events still wants the outcome.
                _ = event => {}
                () = controls.cancelled() => failure = Some(CANCELLED.to_owned()),
            }
        }

        drop(events);
        let downloads = download_all(&self.files(), transfers, failure, controls).await;

        if let Some(forwarder) = forwarder {
            forwarder.finish().await;
        }

        let outcome = outcome.downloads(downloads).network(self.network());
        let teardown = self.end().await;

        Ok(RunEnd::Outcome(Box::new(
            outcome.teardown(teardown).finish(),
        )))
    }
}

/// Uploads everything in order. Each content is released as soon as the guest has it. Returns the files in directories
/// that were skipped.
async fn upload_all(
    files: &Files,
    uploads: Vec<(UploadSource, String)>,
) -> Result<SkippedFiles, Error> {
    let mut skipped = SkippedFiles::default();
    for (source, guest_path) in uploads {
        let (shown, uploaded) = match source {
            UploadSource::Path(local) => (
                local.display().to_string(),
                upload_local(files, &local, &guest_path).await,
            ),
            UploadSource::Bytes(bytes) => (
                guest_path.clone(),
                upload_bytes(files, bytes, &guest_path)
                    .await
                    .map(|()| SkippedFiles::default()),
            ),
        };

        // The guest has only received files.
        let uploaded = uploaded.map_err(|error| {
            let action = format!("upload of {shown} failed");
            error.in_context(&action).before_start()
        })?;
        skipped.append(uploaded.below(&shown));
    }

    Ok(skipped)
}

async fn upload_bytes(files: &Files, bytes: Bytes, guest_path: &str) -> Result<(), Error> {
    let options = WriteOptions {
        parents: true,
        ..WriteOptions::default()
    };

    files.write_with_options(guest_path, bytes, options).await
}

async fn upload_local(
    files: &Files,
    local: &Path,
    guest_path: &str,
) -> Result<SkippedFiles, Error> {
    use std::os::unix::fs::PermissionsExt;

    let unreadable = |error: std::io::Error| {
        let message = format!("cannot read {}: {error}", local.display());
        Error::new(ErrorKind::Host, message).caused_by(error)
    };

    let Some((path, name)) = upload_path(local, guest_path) else {
        let message = format!(
            "{} has no file name; give its path in the guest a name",
            local.display()
        );
        return Err(Error::new(ErrorKind::Invalid, message));
    };

    if local.is_dir() {
        return files.upload_dir(local, &path).await;
    }

    // A pipe has neither permissions nor a size that mean anything.
    let file = tokio::fs::File::open(local).await.map_err(unreadable)?;
    let metadata = file.metadata().await.map_err(unreadable)?;
    let is_file = metadata.is_file();
    let options = WriteOptions {
        mode: is_file.then(|| metadata.permissions().mode() & 0o777),
        parents: true,
        size: is_file.then_some(metadata.len()),
    };

    let path = if is_directory(files, &path).await {
        format!("{path}/{name}")
    } else {
        path
    };

    files.upload(&path, file, options).await?;
    Ok(SkippedFiles::default())
}

/// Downloads everything within one deadline. `failure`: why nothing can be downloaded, if so.
async fn download_all(
    files: &Files,
    transfers: Transfers,
    mut failure: Option<String>,
    controls: &mut Controls,
) -> Vec<Download> {
    let mut downloads = Vec::with_capacity(transfers.downloads.len());
    let deadline = TransferDeadline::start(files.transferred());
    // The limit for content in memory is shared by all downloads.
    let mut memory = DownloadMemory::new(transfers.memory_bytes);

    for (remote, target) in transfers.downloads {
        // What stops one download stops all that follow.
        if let Some(failure) = &failure {
            downloads.push(Download::failed(remote, target, failure.clone()));
            continue;
        }

        let result = tokio::select! {
            result = download(files, &remote, &target, &mut memory) => result,
            error = deadline.expired() => Err(error),
            () = controls.cancelled() => Err(Error::new(ErrorKind::Lost, CANCELLED)),
        };

        // A failed download is part of the outcome.
        downloads.push(match result {
            Ok(download) => Download { remote, ..download },
            Err(error) => {
                if matches!(error.kind(), ErrorKind::Lost | ErrorKind::Protocol) {
                    failure = Some(error.to_string());
                }
                Download::failed(remote, target, error.to_string())
            }
        });
    }

    downloads
}

async fn download(
    files: &Files,
    remote: &str,
    target: &DownloadTarget,
    memory: &mut DownloadMemory,
) -> Result<Download, Error> {
    // A link to a directory is downloaded as the directory.
    let info = files.stat(remote).await?;
    let is_dir = match info.kind {
        FileKind::Directory => true,
        FileKind::Link => is_directory(files, remote).await,
        _ => false,
    };

    match target {
        DownloadTarget::Memory if is_dir => {
            let message = format!("{remote} is a directory; download it to a path");
            Err(Error::new(ErrorKind::Invalid, message))
        }
        DownloadTarget::Memory => {
            // The size of a link is not that of its file.
            let size = if info.kind == FileKind::File {
                info.size
            } else {
                0
            };
            let max = memory.reserve(remote, size)?;

            // One byte more than allowed shows that the file is too large, whatever its size was said to be.
            let content = files.read_range(remote, 0, max.saturating_add(1)).await?;
            let len = content.len() as u64;
            memory.take(remote, len)?;

            Ok(Download {
                bytes: Some(len),
                content: Some(content),
                ..Download::default()
            })
        }
        DownloadTarget::Path(local) if is_dir => {
            reject_directory_link(local)?;
            let skipped = files.download_dir(remote, local).await?;
            let error = (skipped.failed > 0).then(|| {
                format!(
                    "{} of its files could not be copied; everything else was",
                    skipped.failed
                )
            });
            Ok(Download {
                local: Some(local.clone()),
                error,
                skipped,
                ..Download::default()
            })
        }
        DownloadTarget::Path(local) => {
            let (path, bytes) = download_file(files, remote, &info, local).await?;
            Ok(Download {
                local: Some(path),
                bytes: Some(bytes),
                ..Download::default()
            })
        }
    }
}

/// Downloads a file; returns its path on this host and its length.
async fn download_file(
    files: &Files,
    remote: &str,
    info: &FileInfo,
    local: &Path,
) -> Result<(PathBuf, u64), Error> {
    let path = file_target(local, Path::new(remote).file_name())?;
    let mode = match info.kind {
        FileKind::File => info.mode,
        _ => 0o644,
    };

    let file = NewFile::beside(&path, mode)?;
    let bytes = files.download(remote, file.writer()?).await?;
    file.persist()?;
    Ok((path, bytes))
}

/// Returns whether a path of the guest, or the target of the link there, is a directory.
async fn is_directory(files: &Files, path: &str) -> bool {
    let info = files.stat(&format!("{path}/.")).await;
    info.is_ok_and(|info| info.kind == FileKind::Directory)
}
