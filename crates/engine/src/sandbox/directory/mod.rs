//! Directories as tar streams: packed and unpacked on the host by threads of this process, and in the guest by its own
//! `tar`, with the rights of the user that programs run as.

mod guest_tar;
mod open_directories;
mod pack;
mod stream;
mod tar_reader;
mod unpack;
#[cfg(test)]
mod hostile_tests;
#[cfg(test)]
mod tests;

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use tokio::sync::mpsc;

use self::guest_tar::Tolerance;
use self::pack::{RootEntry, pack};
use self::stream::{CHUNKS, ChunkWriter};
pub use self::unpack::stays_inside as link_stays_inside;
pub(crate) use self::unpack::unpack;
use super::files::Files;
use super::transfer_deadline::TransferDeadline;
use crate::error::{Error, ErrorKind, printable};
use crate::run::{SkippedFiles, SpawnRequest};

impl Files {
    /// Copies a directory of this host with its content into a directory of the guest, which is created if it does
    /// not exist. Links are copied as links, hard links stay hard links, and holes of sparse files stay holes. Sockets,
    /// devices, and files that cannot be read are skipped, and returned with the reason. The copy may take a minute, and a
    /// second for each 16 KiB.
    ///
    /// # Errors
    /// Returns [`ErrorKind::Host`] if the directory itself cannot be read, [`ErrorKind::Invalid`] if the guest's tar
    /// fails, or [`ErrorKind::Lost`], also if the guest is too slow.
    pub async fn upload_dir(&self, from: &Path, to: &str) -> Result<SkippedFiles, Error> {
        let unreadable = |error: io::Error| {
            let message = format!("cannot read {}: {error}", from.display());
            Error::new(ErrorKind::Host, message).caused_by(error)
        };
        // Report this before anything is created in the guest.
        std::fs::read_dir(from).map_err(unreadable)?;

        let root = self.prepare_dir(to).await?;

        // A thread of this process packs, and the guest's tar unpacks.
        let (sender, chunks) = mpsc::channel::<Bytes>(CHUNKS);
        let source = from.to_path_buf();
        let packing =
            tokio::task::spawn_blocking(move || pack(&source, root, ChunkWriter::new(sender)));
        let tar = self.run_unpacking_tar(to, chunks).await;

        // A guest that is too slow is the reason of a broken pipe.
        if let Err(error) = &tar
            && error.kind() == ErrorKind::Lost
        {
            return tar.map(|()| SkippedFiles::default());
        }
        // A broken pipe here means that the guest's tar ended: its error is the reason.
        let packed = packing.await.unwrap_or_else(|e| Err(io::Error::other(e)));
        match packed {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(unreadable(error)),
            packed => tar.map(|()| packed.unwrap_or_default()),
        }
    }

    /// Unpacks a tar stream into a directory of the guest, which is created if it does not exist, as
    /// [`upload_dir`](Self::upload_dir) does with its own. The stream ends when all of its senders are dropped. The guest
    /// interprets it with the rights of the user that programs run as.
    ///
    /// # Errors
    /// Returns [`ErrorKind::Invalid`] if the guest's tar fails, or [`ErrorKind::Lost`], also if the guest is too slow.
    pub async fn unpack_dir(&self, to: &str, chunks: mpsc::Receiver<Bytes>) -> Result<(), Error> {
        self.prepare_dir(to).await?;
        self.run_unpacking_tar(to, chunks).await
    }

    /// Creates the directory into which a tar is unpacked.
    async fn prepare_dir(&self, to: &str) -> Result<RootEntry, Error> {
        // A directory that exists keeps its own permissions: it may be one of root's.
        let root = match self.stat(&format!("{to}/.")).await {
            Ok(_) => RootEntry::Omit,
            Err(_) => RootEntry::Include,
        };

        let made = self.make_dir(to).await;
        match made {
            Err(error)
                if error.io_kind() == Some(io::ErrorKind::PermissionDenied) && is_top_level(to) =>
            {
                self.make_top_level_dir(to).await?;
            }
            made => made?,
        }
        Ok(root)
    }

    /// Creates a directory in the guest's root, which belongs to root, for the user that programs run as.
    async fn make_top_level_dir(&self, path: &str) -> Result<(), Error> {
        // Fails if anything exists there, so that nothing changes its owner. No user can place a link in the root.
        let script = "mkdir -m 755 -- \"$0\" && chown 1000:1000 -- \"$0\"";
        let request = SpawnRequest::new(["sh", "-c", script, path]).root();

        self.sandbox().set_allow_root(true).await?;
        let made = async {
            let run = self.sandbox().spawn(&request)?;
            run.outcome().await
        };
        let made = made.await;
        self.sandbox().set_allow_root(false).await?;

        match made? {
            outcome if outcome.exit_code == Some(0) => Ok(()),
            outcome => {
                let (path, code) = (printable(path), outcome.exit_code);
                let message =
                    format!("cannot make the directory {path} in the guest (exit code {code:?})");
                Err(Error::new(ErrorKind::Invalid, message))
            }
        }
    }

    /// Sends a tar stream to the guest's tar, which unpacks it.
    async fn run_unpacking_tar(
        &self,
        to: &str,
        mut chunks: mpsc::Receiver<Bytes>,
    ) -> Result<(), Error> {
        let run = self.sandbox().spawn(&guest_tar::unpacking(to))?;
        let progress = Progress::default();
        let mut input = run.input();
        let sending = async {
            while let Some(chunk) = chunks.recv().await {
                let len = chunk.len();
                // If tar has ended, its own error says why.
                if input.write(chunk).await.is_err() {
                    break;
                }
                progress.record_bytes(self, len);
            }

            // Files that are not sent are not packed either.
            chunks.close();
            input.close().await;
        };

        // A tar that unpacks has no output: one that prints some is ended.
        let tar = guest_tar::follow(run, Tolerance::None, |_| async { false });
        let ((), tar) = progress
            .within_deadline(async { Ok(tokio::join!(sending, tar)) })
            .await?;
        tar.map(drop)
    }

    /// Packs a directory of the guest into a tar stream, which [`unpack_directory`] reads. Sockets and files that the user
    /// cannot read are left out, and returned. Every byte of the stream is as hostile as the guest.
    ///
    /// # Errors
    /// Returns [`ErrorKind::Invalid`] if the guest's tar fails, or [`ErrorKind::Lost`], also if the guest is too slow.
    pub async fn pack_dir(
        &self,
        from: &str,
        to: mpsc::Sender<Bytes>,
    ) -> Result<SkippedFiles, Error> {
        let run = self.sandbox().spawn(&guest_tar::packing(from))?;
        let progress = Progress::default();
        let tar = guest_tar::follow(run, Tolerance::UnreadableFiles, |chunk| {
            progress.record_bytes(self, chunk.len());
            let to = to.clone();
            async move { to.send(chunk).await.is_ok() }
        });
        progress.within_deadline(tar).await
    }

    /// Copies a directory of the guest with its content into a directory of this host, which is created if it does
    /// not exist. Regular files with their hard links and holes, directories, and relative links that stay inside are
    /// copied. Everything else is skipped, and returned with the reason. Nothing that the guest sends is written
    /// outside of `to`. At most 1 GiB and 100,000 files are written, below at most 128 directories. Permissions are those in the
    /// guest as far as the umask allows them; only the owner may write. The copy may take a minute, and a
    /// second for each 16 KiB.
    ///
    /// # Errors
    /// Returns [`ErrorKind::Invalid`] if the guest's tar fails or sends invalid data, [`ErrorKind::Host`] if writing
    /// fails altogether, or [`ErrorKind::Lost`], also if the guest is too slow.
    pub async fn download_dir(&self, from: &str, to: &Path) -> Result<SkippedFiles, Error> {
        // The guest's tar packs, and a thread of this process unpacks.
        let (sender, chunks) = mpsc::channel::<Bytes>(CHUNKS);
        let target = to.to_path_buf();
        let unpacking = tokio::task::spawn_blocking(move || unpack(&target, chunks));
        let tar = self.pack_dir(from, sender).await;
        // The thread may be busy with what arrived before; its files are not needed any more.
        if let Err(error) = &tar
            && error.kind() == ErrorKind::Lost
        {
            return tar;
        }

        let unpacked = unpacking.await.unwrap_or_else(|e| Err(io::Error::other(e)));
        let mut skipped = match unpacked {
            Ok(skipped) => skipped,
            // The end of tar explains why its stream is not complete.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof && tar.is_err() => {
                SkippedFiles::default()
            }
            Err(error) => {
                let kind = match error.kind() {
                    io::ErrorKind::InvalidData => ErrorKind::Invalid,
                    _ => ErrorKind::Host,
                };

                let (from, to) = (printable(from), to.display());
                let message = format!("cannot copy {from} to {to}: {error}");
                return Err(Error::new(kind, message).caused_by(error));
            }
        };

        skipped.append(tar?);
        Ok(skipped)
    }
}

/// Returns whether a path is one name in the root directory.
fn is_top_level(path: &str) -> bool {
    let name = path.strip_prefix('/').unwrap_or_default();
    let name = name.trim_end_matches('/');
    !name.is_empty() && !name.contains('/') && !matches!(name, "." | "..")
}

/// Packs a directory of this host into a tar stream, as [`Files::upload_dir`] does. Call it on a thread that may block.
/// Returns the files that were skipped.
///
/// # Errors
/// The directory itself cannot be read, or the stream has no reader.
pub fn pack_directory(from: &Path, to: mpsc::Sender<Bytes>) -> io::Result<SkippedFiles> {
    pack(from, RootEntry::Omit, ChunkWriter::new(to))
}

/// Unpacks a tar stream from a guest into a directory of this host, with the checks and limits of [`Files::download_dir`].
/// Call it on a thread that may block. Returns the files that were skipped.
///
/// # Errors
/// The stream is invalid or too large, the target cannot be created, or this host cannot store any more files.
pub fn unpack_directory(to: &Path, from: mpsc::Receiver<Bytes>) -> io::Result<SkippedFiles> {
    unpack(to, from)
}

/// The bytes of the tar stream of one copy.
#[derive(Debug, Default)]
struct Progress(Arc<AtomicU64>);

impl Progress {
    fn record_bytes(&self, files: &Files, bytes: usize) {
        files.record_bytes(bytes);
        self.0.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Waits for the copy while it makes progress.
    async fn within_deadline<T>(
        &self,
        copy: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        let deadline = TransferDeadline::of_directory(self.0.clone());
        tokio::select! {
            result = copy => result,
            error = deadline.expired() => Err(error),
        }
    }
}
