//! Whole directories, as tar streams: made and taken apart on this side by a library, in the guest by its
//! own `tar`, with the rights of the user that programs run as.

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

/// Pieces on their way between the guest and the thread that packs or unpacks.
const PIECES: usize = 16;
/// Bytes of one piece.
const PIECE_BYTES: usize = 64 * 1024;
/// What a guest can make this host write at most, in bytes, unless more is allowed.
const TREE_BYTES: u64 = 1024 * 1024 * 1024;
/// Bytes between two contents: long names and the like.
const HEADER_BYTES: u64 = 1024 * 1024;
/// Entries of a tree that is taken from a guest at most.
const TREE_ENTRIES: u64 = 100_000;
/// The most of what the guest's tar says that goes into an error, in bytes.
const WORDS_BYTES: usize = 2000;

impl Files {
    /// Copies a directory of this host, with all that is in it, into a directory of the guest, which is made
    /// if need be. Links are copied as links.
    ///
    /// # Errors
    /// [`ErrorKind::Host`] for what cannot be read here, [`ErrorKind::Invalid`] for what the guest's tar
    /// refuses, [`ErrorKind::Lost`].
    pub async fn upload_dir(&self, from: &Path, to: &str) -> Result<(), Error> {
        let unreadable = |error: io::Error| {
            let message = format!("{} cannot be read: {error}", from.display());
            Error::new(ErrorKind::Host, message).caused_by(error)
        };
        // Told before anything is made in the guest.
        std::fs::read_dir(from).map_err(unreadable)?;
        self.make_dir(to).await?;
        let argv = ["tar", "-x", "-f", "-", "--no-same-owner"];
        let run = self
            .sandbox()
            .spawn(&SpawnRequest::new(argv).cwd(to).stdin())?;
        let (pieces, mut inbox) = mpsc::channel::<Bytes>(PIECES);
        let source = from.to_path_buf();
        let packing = tokio::task::spawn_blocking(move || pack(&source, Pieces::new(pieces)));
        let mut input = run.input();
        let sending = async move {
            while let Some(piece) = inbox.recv().await {
                // A tar that has ended says why.
                if input.write(piece).await.is_err() {
                    return;
                }
            }
            input.close().await;
        };
        let ((), ended) = tokio::join!(sending, end_of_tar(run, |_| async { true }));
        let packed = packing.await.unwrap_or_else(|e| Err(io::Error::other(e)));
        // Where the guest has ended it, that is the reason; where it was cut short here, this is.
        match packed {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(unreadable(error)),
            _ => ended,
        }
    }

    /// Copies a directory of the guest, with all that is in it, into a directory of this host, which is made
    /// if need be. Regular files and directories are copied, and relative links that stay inside; all else
    /// is left out. Nothing is written outside of `to`, whatever the guest sends, and at most 1 GiB.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] for what the guest's tar refuses or sends, [`ErrorKind::Host`] for what cannot
    /// be written here, [`ErrorKind::Lost`].
    pub async fn download_dir(&self, from: &str, to: &Path) -> Result<(), Error> {
        let argv = ["tar", "-c", "-f", "-", "--sort=name", "."];
        let run = self.sandbox().spawn(&SpawnRequest::new(argv).cwd(from))?;
        let (pieces, inbox) = mpsc::channel::<Bytes>(PIECES);
        let target = to.to_path_buf();
        let unpacking = tokio::task::spawn_blocking(move || unpack(&target, inbox));
        let ended = end_of_tar(run, |piece| {
            let pieces = pieces.clone();
            async move { pieces.send(piece).await.is_ok() }
        })
        .await;
        drop(pieces);
        let unpacked = unpacking.await.unwrap_or_else(|e| Err(io::Error::other(e)));
        unpacked.map_err(|error| {
            let kind = match error.kind() {
                io::ErrorKind::InvalidData => ErrorKind::Invalid,
                _ => ErrorKind::Host,
            };
            let shown = to.display();
            let message = format!("{} cannot be copied to {shown}: {error}", printable(from));
            Error::new(kind, message).caused_by(error)
        })?;
        ended
    }
}

/// Follows the guest's tar to its end; hands on what it writes, as long as somebody takes it.
async fn end_of_tar<F>(mut run: Run, mut take: impl FnMut(Bytes) -> F) -> Result<(), Error>
where
    F: Future<Output = bool>,
{
    let mut words = Vec::new();
    while let Some(event) = run.next().await {
        match event {
            Event::Stdout(bytes) => {
                let is_wanted = take(bytes).await;
                if !is_wanted {
                    run.canceller().cancel();
                }
            }
            Event::Stderr(bytes) => {
                let room = WORDS_BYTES - words.len();
                words.extend_from_slice(&bytes[..bytes.len().min(room)]);
            }
            _ => {}
        }
    }
    let outcome = run.outcome().await?;
    match outcome.exit_code {
        Some(0) => Ok(()),
        code => {
            let said = String::from_utf8_lossy(&words);
            let message = format!(
                "the guest's tar ended by {} with {code:?}: {}",
                outcome.ended_by,
                said.trim_end()
            );
            Err(Error::new(ErrorKind::Invalid, message))
        }
    }
}

fn pack(from: &Path, to: Pieces) -> io::Result<()> {
    let mut builder = Builder::new(to);
    builder.follow_symlinks(false);
    builder.append_dir_all(".", from)?;
    builder.into_inner()?.finish()
}

fn unpack(to: &Path, from: mpsc::Receiver<Bytes>) -> io::Result<()> {
    let from = Arriving::new(from);
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
        budget.set(HEADER_BYTES);
        let Some(entry) = entries.next() else { break };
        let mut entry = entry?;
        budget.set(TREE_BYTES);
        count += 1;
        if count > TREE_ENTRIES {
            return Err(invalid(&format!("more than {TREE_ENTRIES} entries")));
        }
        let wanted = match entry.header().entry_type() {
            EntryType::Regular | EntryType::Directory => true,
            EntryType::Symlink => stays_inside(&entry, &to)?,
            _ => false,
        };
        if wanted {
            entry.unpack_in(&to)?;
        }
        // What is left of it would be skipped on the way to the next header.
        io::copy(&mut entry, &mut io::sink())?;
    }
    Ok(())
}

/// Whether a link leads to something below the directory that is being filled: up from where it really is, no
/// further than that, and then down.
fn stays_inside<R: Read>(entry: &tar::Entry<'_, R>, to: &Path) -> io::Result<bool> {
    let path = entry.path()?.into_owned();
    let Some(target) = entry.link_name()? else {
        return Ok(false);
    };
    let parent = to.join(path.parent().unwrap_or(Path::new("")));
    let Ok(parent) = parent.canonicalize() else {
        return Ok(false);
    };
    let Ok(below) = parent.strip_prefix(to) else {
        return Ok(false);
    };
    let mut room = below.components().count();
    let mut goes_down = false;
    for step in target.components() {
        match step {
            Component::Normal(_) => goes_down = true,
            Component::CurDir => {}
            Component::ParentDir if room > 0 && !goes_down => room -= 1,
            _ => return Ok(false),
        }
    }
    Ok(true)
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_string())
}

/// What a thread writes, piece by piece.
struct Pieces {
    to: mpsc::Sender<Bytes>,
    piece: Vec<u8>,
}

impl Pieces {
    fn new(to: mpsc::Sender<Bytes>) -> Self {
        Self {
            to,
            piece: Vec::with_capacity(PIECE_BYTES),
        }
    }

    fn finish(mut self) -> io::Result<()> {
        self.flush()
    }
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let now = bytes.len().min(PIECE_BYTES - self.piece.len());
        self.piece.extend_from_slice(&bytes[..now]);
        if self.piece.len() == PIECE_BYTES {
            self.flush()?;
        }
        Ok(now)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.piece.is_empty() {
            return Ok(());
        }
        let piece = std::mem::replace(&mut self.piece, Vec::with_capacity(PIECE_BYTES));
        let sent = self.to.blocking_send(piece.into());
        sent.map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

/// What arrives from a guest, for a thread that reads. It counts.
struct Arriving {
    from: mpsc::Receiver<Bytes>,
    piece: Bytes,
    left: u64,
    /// What may be read before it is set anew.
    budget: Rc<Cell<u64>>,
}

impl Arriving {
    fn new(from: mpsc::Receiver<Bytes>) -> Self {
        Self {
            from,
            piece: Bytes::new(),
            left: TREE_BYTES,
            budget: Rc::new(Cell::new(HEADER_BYTES)),
        }
    }
}

impl Read for Arriving {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() {
            match self.from.blocking_recv() {
                None => return Ok(0),
                Some(piece) => self.piece = piece,
            }
        }
        let now = self.piece.len().min(buffer.len());
        let more = format!("more than {TREE_BYTES} bytes");
        self.left = self
            .left
            .checked_sub(now as u64)
            .ok_or_else(|| invalid(&more))?;
        let budget = self.budget.get().checked_sub(now as u64);
        self.budget
            .set(budget.ok_or_else(|| invalid("a header that is too long"))?);
        buffer[..now].copy_from_slice(&self.piece.split_to(now));
        Ok(now)
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
    fn what_is_packed_can_be_unpacked() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::fs::create_dir_all(from.path().join("a/b")).unwrap();
        let long = "x".repeat(200);
        std::fs::write(from.path().join("a/b").join(&long), vec![7; 300_000]).unwrap();
        std::os::unix::fs::symlink("b", from.path().join("a/link")).unwrap();
        let (pieces, mut inbox) = mpsc::channel(4);
        let source = from.path().to_path_buf();
        let packing = std::thread::spawn(move || pack(&source, Pieces::new(pieces)));
        let mut bytes = Vec::new();
        while let Some(piece) = inbox.blocking_recv() {
            bytes.extend(piece);
        }
        packing.join().unwrap().unwrap();
        unpack(to.path(), arriving(bytes)).unwrap();
        let copy = to.path().join("a/link").join(&long);
        assert_eq!(std::fs::read(copy).unwrap(), vec![7; 300_000]);
    }
}
