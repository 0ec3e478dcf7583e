//! Directories as tar streams: packed and unpacked on the host by threads of this process, and in the guest by its own
//! `tar`, with the rights of the user that programs run as.

mod guest_tar;
mod pack;
mod stream;
mod unpack;
#[cfg(test)]
mod tests;

use std::io;
use std::path::Path;

use bytes::Bytes;
use tokio::sync::mpsc;

use self::guest_tar::Tolerance;
use self::pack::{RootEntry, pack};
use self::stream::{CHUNKS, ChunkWriter};
pub(crate) use self::unpack::unpack;
use super::files::Files;
use crate::error::{Error, ErrorKind, printable};
use crate::run::SkippedFiles;

impl Files {
    /// Copies a directory of this host with its content into a directory of the guest, which is created if it does
    /// not exist. Links are copied as links, hard links stay hard links, and holes of sparse files stay holes. Sockets,
    /// devices, and files that cannot be read are skipped, and returned with the reason.
    ///
    /// # Errors
    /// Returns [`ErrorKind::Host`] if the directory itself cannot be read, [`ErrorKind::Invalid`] if the guest's tar
    /// fails, or [`ErrorKind::Lost`].
    pub async fn upload_dir(&self, from: &Path, to: &str) -> Result<SkippedFiles, Error> {
        let unreadable = |error: io::Error| {
            let message = format!("cannot read {}: {error}", from.display());
            Error::new(ErrorKind::Host, message).caused_by(error)
        };
        // Report this before anything is created in the guest.
        std::fs::read_dir(from).map_err(unreadable)?;

        // A directory that exists keeps its own permissions: it may be one of root's.
        let root = match self.stat(&format!("{to}/.")).await {
            Ok(_) => RootEntry::Omit,
            Err(_) => RootEntry::Include,
        };
        self.make_dir(to).await?;

        // A thread of this process packs, and the guest's tar unpacks.
        let run = self.sandbox().spawn(&guest_tar::unpacking(to))?;
        let (sender, mut chunks) = mpsc::channel::<Bytes>(CHUNKS);
        let source = from.to_path_buf();
        let packing =
            tokio::task::spawn_blocking(move || pack(&source, root, ChunkWriter::new(sender)));

        let mut input = run.input();
        let sending = async move {
            while let Some(chunk) = chunks.recv().await {
                let len = chunk.len();
                // If tar has ended, its own error says why.
                if input.write(chunk).await.is_err() {
                    return;
                }
                self.record_bytes(len);
            }

            input.close().await;
        };

        let tar = guest_tar::follow(run, Tolerance::None, |_| async { true });
        let ((), tar) = tokio::join!(sending, tar);

        // A broken pipe here means that the guest's tar ended: its error is the reason.
        let packed = packing.await.unwrap_or_else(|e| Err(io::Error::other(e)));
        match packed {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(unreadable(error)),
            packed => tar.map(|_| packed.unwrap_or_default()),
        }
    }

    /// Copies a directory of the guest with its content into a directory of this host, which is created if it does
    /// not exist. Regular files with their hard links and holes, directories, and relative links that stay inside are
    /// copied. Everything else is skipped, and returned with the reason. Nothing that the guest sends is written
    /// outside of `to`, and at most 1 GiB is written.
    ///
    /// # Errors
    /// Returns [`ErrorKind::Invalid`] if the guest's tar fails or sends invalid data, [`ErrorKind::Host`] if writing
    /// fails altogether, or [`ErrorKind::Lost`].
    pub async fn download_dir(&self, from: &str, to: &Path) -> Result<SkippedFiles, Error> {
        // The guest's tar packs, and a thread of this process unpacks.
        let run = self.sandbox().spawn(&guest_tar::packing(from))?;
        let (sender, chunks) = mpsc::channel::<Bytes>(CHUNKS);
        let target = to.to_path_buf();
        let unpacking = tokio::task::spawn_blocking(move || unpack(&target, chunks));

        let tar = guest_tar::follow(run, Tolerance::UnreadableFiles, |chunk| {
            self.record_bytes(chunk.len());
            let sender = sender.clone();
            async move { sender.send(chunk).await.is_ok() }
        })
        .await;
        drop(sender);

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
