//! Directories as tar streams: packed and unpacked on the host by a library, and in the guest by its own `tar`, with
//! the rights of the user that programs run as.

use std::cell::Cell;
use std::io::{self, Read, Write};
use std::path::{Component, Path};
use std::rc::Rc;

use bytes::Bytes;
use tar::{Archive, Builder, EntryType};
use tokio::sync::mpsc;

use super::files::Files;
use crate::error::{Error, ErrorKind, printable};
use crate::run::{Event, Run, SpawnRequest};

/// Number of chunks in flight between the guest and the thread that packs or unpacks.
const CHUNKS: usize = 16;
/// Size of a chunk, in bytes.
const CHUNK_BYTES: usize = 64 * 1024;
/// Maximum content that a guest can make this host write, in bytes.
const MAX_TREE_BYTES: u64 = 1024 * 1024 * 1024;
/// Maximum bytes between the contents of two entries: long names and the like.
const MAX_HEADER_BYTES: u64 = 1024 * 1024;
/// Maximum number of entries in a tree from a guest.
const MAX_TREE_ENTRIES: u64 = 100_000;
/// Maximum output of the guest's tar in an error message, in bytes.
const MAX_MESSAGE_BYTES: usize = 2000;

impl Files {
    /// Copies a directory of this host with its content into a directory of the guest, which is created if it does
    /// not exist. Links are copied as links.
    ///
    /// # Errors
    /// Returns [`ErrorKind::Host`] if the directory cannot be read, [`ErrorKind::Invalid`] if the guest's tar fails,
    /// or [`ErrorKind::Lost`].
    pub async fn upload_dir(&self, from: &Path, to: &str) -> Result<(), Error> {
        let unreadable = |error: io::Error| {
            let message = format!("cannot read {}: {error}", from.display());
            Error::new(ErrorKind::Host, message).caused_by(error)
        };
        // Report this before anything is created in the guest.
        std::fs::read_dir(from).map_err(unreadable)?;
        self.make_dir(to).await?;

        // A thread of this process packs, and the guest's tar unpacks.
        let argv = ["tar", "-x", "-f", "-", "--no-same-owner"];
        let request = SpawnRequest::new(argv).cwd(to).stdin();
        let run = self.sandbox().spawn(&request)?;
        let (sender, mut chunks) = mpsc::channel::<Bytes>(CHUNKS);
        let source = from.to_path_buf();
        let packing = tokio::task::spawn_blocking(move || pack(&source, ChunkWriter::new(sender)));

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

        let ((), tar) = tokio::join!(sending, follow_tar(run, |_| async { true }));

        // A broken pipe here means that the guest's tar ended: its error is the reason.
        let packed = packing.await.unwrap_or_else(|e| Err(io::Error::other(e)));
        match packed {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(unreadable(error)),
            _ => tar,
        }
    }

    /// Copies a directory of the guest with its content into a directory of this host, which is created if it does
    /// not exist. Regular files, directories, and relative links that stay inside are copied; everything else is
    /// skipped. Whatever the guest sends, nothing is written outside of `to`, and at most 1 GiB.
    ///
    /// # Errors
    /// Returns [`ErrorKind::Invalid`] if the guest's tar fails or sends invalid data, [`ErrorKind::Host`] if writing
    /// fails, or [`ErrorKind::Lost`].
    pub async fn download_dir(&self, from: &str, to: &Path) -> Result<(), Error> {
        // The guest's tar packs, and a thread of this process unpacks.
        let argv = ["tar", "-c", "-f", "-", "--sort=name", "."];
        let run = self.sandbox().spawn(&SpawnRequest::new(argv).cwd(from))?;
        let (sender, chunks) = mpsc::channel::<Bytes>(CHUNKS);
        let target = to.to_path_buf();
        let unpacking = tokio::task::spawn_blocking(move || unpack(&target, chunks));

        let tar = follow_tar(run, |chunk| {
            self.record_bytes(chunk.len());
            let sender = sender.clone();
            async move { sender.send(chunk).await.is_ok() }
        })
        .await;
        drop(sender);

        let unpacked = unpacking.await.unwrap_or_else(|e| Err(io::Error::other(e)));
        unpacked.map_err(|error| {
            let kind = match error.kind() {
                io::ErrorKind::InvalidData => ErrorKind::Invalid,
                _ => ErrorKind::Host,
            };

            let (from, to) = (printable(from), to.display());
            let message = format!("cannot copy {from} to {to}: {error}");
            Error::new(kind, message).caused_by(error)
        })?;

        tar
    }
}

/// Follows the guest's tar to its end. Its output goes to `take`, until that returns `false`.
async fn follow_tar<F>(mut run: Run, mut take: impl FnMut(Bytes) -> F) -> Result<(), Error>
where
    F: Future<Output = bool>,
{
    let mut stderr = Vec::new();
    while let Some(event) = run.next().await {
        match event {
            Event::Stdout(bytes) => {
                let is_taken = take(bytes).await;
                if !is_taken {
                    run.canceller().cancel();
                }
            }
            Event::Stderr(bytes) => {
                let free = MAX_MESSAGE_BYTES - stderr.len();
                stderr.extend_from_slice(&bytes[..bytes.len().min(free)]);
            }
            _ => {}
        }
    }

    // The error of tar is the best explanation.
    let outcome = run.outcome().await?;
    if outcome.exit_code == Some(0) {
        return Ok(());
    }

    let (ended_by, code) = (outcome.ended_by, outcome.exit_code);
    let stderr = String::from_utf8_lossy(&stderr);
    let message = format!(
        "the guest's tar failed ({ended_by}, exit code {code:?}): {}",
        stderr.trim_end()
    );

    Err(Error::new(ErrorKind::Invalid, message))
}

fn pack(from: &Path, to: ChunkWriter) -> io::Result<()> {
    let mut builder = Builder::new(to);
    builder.follow_symlinks(false);
    builder.append_dir_all(".", from)?;
    builder.into_inner()?.finish()
}

fn unpack(to: &Path, from: mpsc::Receiver<Bytes>) -> io::Result<()> {
    let from = ChunkReader::new(from);
    std::fs::create_dir_all(to)?;
    let to = to.canonicalize()?;

    let budget = from.budget.clone();
    let mut archive = Archive::new(from);
    archive.set_preserve_mtime(true);
    archive.set_overwrite(true);
    let mut entries = archive.entries()?;
    let mut count = 0;

    loop {
        // Headers are held in memory, contents are not.
        budget.set(MAX_HEADER_BYTES);
        let Some(entry) = entries.next() else { break };
        let mut entry = entry?;
        budget.set(MAX_TREE_BYTES);

        count += 1;

        if count > MAX_TREE_ENTRIES {
            return Err(invalid(&format!("more than {MAX_TREE_ENTRIES} entries")));
        }

        let is_wanted = match entry.header().entry_type() {
            EntryType::Regular | EntryType::Directory => true,
            EntryType::Symlink => stays_inside(&entry, &to)?,
            _ => false,
        };

        if is_wanted {
            entry.unpack_in(&to)?;
        }

        // Read the rest now, or it would count as part of the next header.
        io::copy(&mut entry, &mut io::sink())?;
    }

    Ok(())
}

/// Returns whether a link points below the target directory: first up from its real location, at most to the target
/// directory, then down.
fn stays_inside<R: Read>(entry: &tar::Entry<'_, R>, to: &Path) -> io::Result<bool> {
    let path = entry.path()?.into_owned();
    let Some(target) = entry.link_name()? else {
        return Ok(false);
    };

    // Resolve the directory that the link will be in: it may contain links itself.
    let parent = to.join(path.parent().unwrap_or(Path::new("")));
    let Ok(parent) = parent.canonicalize() else {
        return Ok(false);
    };

    let Ok(below) = parent.strip_prefix(to) else {
        return Ok(false);
    };

    // Going up after going down could leave the directory through another link.
    let mut depth = below.components().count();
    let mut goes_down = false;

    for step in target.components() {
        match step {
            Component::Normal(_) => goes_down = true,
            Component::CurDir => {}
            Component::ParentDir if depth > 0 && !goes_down => depth -= 1,
            _ => return Ok(false),
        }
    }

    Ok(true)
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_string())
}

/// Sends the output of a thread in chunks.
struct ChunkWriter {
    to: mpsc::Sender<Bytes>,
    chunk: Vec<u8>,
}

impl ChunkWriter {
    fn new(to: mpsc::Sender<Bytes>) -> Self {
        Self {
            to,
            chunk: Vec::with_capacity(CHUNK_BYTES),
        }
    }

    fn finish(mut self) -> io::Result<()> {
        self.flush()
    }
}

impl Write for ChunkWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let len = bytes.len().min(CHUNK_BYTES - self.chunk.len());
        self.chunk.extend_from_slice(&bytes[..len]);
        if self.chunk.len() == CHUNK_BYTES {
            self.flush()?;
        }
        Ok(len)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.chunk.is_empty() {
            return Ok(());
        }
        let chunk = std::mem::replace(&mut self.chunk, Vec::with_capacity(CHUNK_BYTES));
        let sent = self.to.blocking_send(chunk.into());
        sent.map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

/// Reads what arrives from a guest on a thread, and enforces the limits.
struct ChunkReader {
    from: mpsc::Receiver<Bytes>,
    chunk: Bytes,
    /// Bytes that may still be read in total.
    left: u64,
    /// Bytes that may be read until the budget is set again.
    budget: Rc<Cell<u64>>,
}

impl ChunkReader {
    fn new(from: mpsc::Receiver<Bytes>) -> Self {
        Self {
            from,
            chunk: Bytes::new(),
            left: MAX_TREE_BYTES,
            budget: Rc::new(Cell::new(MAX_HEADER_BYTES)),
        }
    }
}

impl Read for ChunkReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.chunk.is_empty() {
            match self.from.blocking_recv() {
                None => return Ok(0),
                Some(chunk) => self.chunk = chunk,
            }
        }

        let len = self.chunk.len().min(buffer.len());
        let too_large = || invalid(&format!("more than {MAX_TREE_BYTES} bytes"));
        self.left = self.left.checked_sub(len as u64).ok_or_else(too_large)?;
        let budget = self.budget.get().checked_sub(len as u64);
        let budget = budget.ok_or_else(|| invalid("a header is too long"))?;
        self.budget.set(budget);

        buffer[..len].copy_from_slice(&self.chunk.split_to(len));

        Ok(len)
    }
}

#[cfg(test)]
mod tests {
    use tar::Header;

    use super::*;

    fn arriving(bytes: Vec<u8>) -> mpsc::Receiver<Bytes> {
        let (to, from) = mpsc::channel(1);
        std::thread::spawn(move || {
            for piece in bytes.chunks(777) {
                if to.blocking_send(Bytes::copy_from_slice(piece)).is_err() {
                    return;
                }
            }
        });

        from
    }

    fn entry(builder: &mut Builder<Vec<u8>>, kind: EntryType, path: &str, target: &str) {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(0o4755);
        // As a hostile tar would: the library's own setters refuse such names.
        header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
        header.as_old_mut().linkname[..target.len()].copy_from_slice(target.as_bytes());

        let content: &[u8] = if kind == EntryType::Regular {
            b"x"
        } else {
            b""
        };

        header.set_size(content.len() as u64);
        header.set_cksum();
        builder.append(&header, content).unwrap();
    }

    #[test]
    fn a_hostile_tar_writes_nothing_outside() {
        let outside = tempfile::tempdir().unwrap();
        let to = outside.path().join("to");
        let mut builder = Builder::new(Vec::new());
        entry(&mut builder, EntryType::Directory, "./d", "");
        entry(&mut builder, EntryType::Regular, "./d/file", "");
        entry(&mut builder, EntryType::Regular, "../escaped", "");
        entry(
            &mut builder,
            EntryType::Regular,
            "/tmp/fumehood-escaped",
            "",
        );
        entry(&mut builder, EntryType::Symlink, "./up", "..");
        entry(&mut builder, EntryType::Regular, "./up/escaped", "");
        entry(&mut builder, EntryType::Symlink, "./absolute", "/etc");
        entry(&mut builder, EntryType::Symlink, "./d/inside", "../d/file");
        entry(&mut builder, EntryType::Directory, "./x/y/z", "");
        entry(&mut builder, EntryType::Symlink, "./x/y/back", "../..");
        entry(&mut builder, EntryType::Symlink, "./x/y/back/out", "..");
        entry(&mut builder, EntryType::Symlink, "./around", "d/../..");
        entry(&mut builder, EntryType::Link, "./hard", "/etc/passwd");
        entry(&mut builder, EntryType::Fifo, "./pipe", "");
        entry(&mut builder, EntryType::Block, "./block", "");
        unpack(&to, arriving(builder.into_inner().unwrap())).unwrap();
        let mut found: Vec<_> = std::fs::read_dir(outside.path())
            .unwrap()
            .flatten()
            .collect();
        found.retain(|entry| entry.file_name() != "to");
        assert!(found.is_empty(), "{found:?}");
        assert_eq!(std::fs::read(to.join("d/file")).unwrap(), b"x");
        assert_eq!(std::fs::read(to.join("d/inside")).unwrap(), b"x");

        for none in ["out", "around", "absolute", "hard", "pipe", "block"] {
            assert!(std::fs::symlink_metadata(to.join(none)).is_err(), "{none}");
        }

        use std::os::unix::fs::PermissionsExt;
        let mode = to.join("d/file").metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o7000, 0, "no setuid bits");
    }

    #[test]
    fn a_packed_directory_can_be_unpacked() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::fs::create_dir_all(from.path().join("a/b")).unwrap();
        let long = "x".repeat(200);
        std::fs::write(from.path().join("a/b").join(&long), vec![7; 300_000]).unwrap();
        std::os::unix::fs::symlink("b", from.path().join("a/link")).unwrap();
        let (sender, mut chunks) = mpsc::channel(4);
        let source = from.path().to_path_buf();
        let packing = std::thread::spawn(move || pack(&source, ChunkWriter::new(sender)));
        let mut bytes = Vec::new();

        while let Some(piece) = chunks.blocking_recv() {
            bytes.extend(piece);
        }

        packing.join().unwrap().unwrap();
        unpack(to.path(), arriving(bytes)).unwrap();
        let copy = to.path().join("a/link").join(&long);
        assert_eq!(std::fs::read(copy).unwrap(), vec![7; 300_000]);
    }
}
