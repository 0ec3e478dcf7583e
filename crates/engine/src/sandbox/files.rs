use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use fumehood_protocol::{
    ActionTag, FileInfo, GuestPath, ListFiles, MakeDir, MoveFile, OpId, RemoveFile, Request,
    Response, Stat, Watch, WriteFile,
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::file_reader::FileReader;
use super::sandbox::{Sandbox, invalid};
use super::stall_timer::{STALL_TIMEOUT, StallTimer};
use super::watcher::Watcher;
use crate::agent::{FRAME_BYTES, Operation, OperationEvent};
use crate::error::{Error, ErrorKind};
use crate::vm::ActivityGuard;

/// Access to the files of a [`Sandbox`], with the rights of the user that programs run as. Paths are absolute, or
/// relative to that user's home. Names and content from the guest are as hostile as its output.
///
/// ```no_run
/// # async fn example(sandbox: fumehood_engine::Sandbox) -> Result<(), fumehood_engine::Error> {
/// let files = sandbox.files();
/// files.write("in.txt", "hello\n").await?;
/// assert_eq!(&files.read("in.txt").await?[..], b"hello\n");
/// let mut report = tokio::fs::File::create("report.pdf").await.unwrap();
/// files.download("report.pdf", &mut report).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Files {
    sandbox: Sandbox,
    /// The bytes of content sent and received by this object and its clones.
    transferred: Arc<AtomicU64>,
}

/// Options for writing a file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WriteOptions {
    /// Permissions, 0 to 0o7777; none = those of the file that is replaced, else 0o644.
    pub mode: Option<u32>,
    /// Create missing parent directories.
    pub parents: bool,
    /// Size of the content in bytes, if known: free space is checked before the first byte.
    pub size: Option<u64>,
}

/// Maximum size of a file for [`Files::read`], in bytes.
const READ_BYTES: u64 = 256 * 1024 * 1024;

/// Maximum size of a listing in memory, in bytes of the guest's messages: 10,000 entries take 2 MB.
const LIST_BYTES: usize = 16 * 1024 * 1024;

/// Timeout of a removal: a tree of 100,000 files takes 10 s under emulation.
const REMOVE_TIMEOUT: Duration = Duration::from_secs(600);

/// Size of one read from an upload's source, in bytes: a frame.
const PIECE_BYTES: usize = 64 * 1024;

impl Sandbox {
    /// Returns access to the files of the sandbox.
    #[must_use]
    pub fn files(&self) -> Files {
        Files::new(self.clone())
    }
}

impl Files {
    fn new(sandbox: Sandbox) -> Self {
        Self {
            sandbox,
            transferred: Arc::default(),
        }
    }

    /// Returns the counter of the bytes of content that this object sends and receives.
    pub(crate) fn transferred(&self) -> Arc<AtomicU64> {
        self.transferred.clone()
    }

    /// Counts bytes of content that were sent or received.
    pub(super) fn record_bytes(&self, bytes: usize) {
        self.transferred.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Writes a file: it is replaced completely, or stays as it was. A link at the path itself is replaced, not
    /// followed.
    ///
    /// # Errors
    /// Returns [`ErrorKind::Invalid`] with [`Error::io_kind`], or [`ErrorKind::Lost`].
    pub async fn write(&self, path: &str, bytes: impl Into<Bytes>) -> Result<(), Error> {
        self.write_with_options(path, bytes, WriteOptions::default())
            .await
    }

    /// Writes a file as [`write`](Self::write) does, with options.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub async fn write_with_options(
        &self,
        path: &str,
        bytes: impl Into<Bytes>,
        options: WriteOptions,
    ) -> Result<(), Error> {
        let bytes = bytes.into();
        let options = WriteOptions {
            size: Some(bytes.len() as u64),
            ..options
        };

        let (len, crc32c) = (bytes.len() as u64, crc32c::crc32c(&bytes));
        if len <= FRAME_BYTES {
            // The request, the content and its end are sent together.
            let (mut operation, _guard) = self.start_write(path, options, Some(bytes))?;
            self.finish_write(&mut operation, len, crc32c).await?;
            self.transferred.fetch_add(len, Ordering::Relaxed);

            return Ok(());
        }

        let (mut operation, _guard) = self.start_write(path, options, None)?;
        self.send(&mut operation, bytes).await?;
        operation.input().end();

        self.finish_write(&mut operation, len, crc32c).await
    }

    /// Writes a file from a reader, as [`write`](Self::write) does; little of it is held in memory. Returns the size
    /// of the file in bytes.
    ///
    /// # Errors
    /// As [`write`](Self::write), and [`ErrorKind::Host`] if the reader fails.
    pub async fn upload(
        &self,
        path: &str,
        mut from: impl AsyncRead + Unpin,
        options: WriteOptions,
    ) -> Result<u64, Error> {
        let (mut operation, _guard) = self.start_write(path, options, None)?;
        let (mut len, mut crc32c) = (0, 0);

        loop {
            // Fill a whole frame: readers may return small pieces.
            let mut piece = BytesMut::with_capacity(PIECE_BYTES);
            while piece.len() < PIECE_BYTES {
                match from.read_buf(&mut piece).await {
                    Ok(0) => break,
                    Ok(_) => {}
                    Err(error) => {
                        let message = format!("reading the content for {path} failed: {error}");
                        return Err(Error::new(ErrorKind::Host, message).caused_by(error));
                    }
                }
            }

            if piece.is_empty() {
                break;
            }

            len += piece.len() as u64;
            crc32c = crc32c::crc32c_append(crc32c, &piece);
            self.send(&mut operation, piece.freeze()).await?;
        }

        operation.input().end();
        self.finish_write(&mut operation, len, crc32c).await?;

        Ok(len)
    }

    fn start_write(
        &self,
        path: &str,
        options: WriteOptions,
        input: Option<Bytes>,
    ) -> Result<(Operation, ActivityGuard), Error> {
        let request = WriteFile {
            action: ActionTag,
            op_id: None,
            path: GuestPath::new(path),
            mode: options.mode,
            size: options.size,
            parents: options.parents,
        };
        request.check(self.sandbox.limits()).map_err(invalid)?;
        self.sandbox.start_operation(input, |op_id, _| {
            Request::WriteFile(WriteFile {
                op_id: Some(op_id),
                ..request
            })
        })
    }

    /// Sends a piece, unless the guest has ended the operation meanwhile or stalls.
    async fn send(&self, operation: &mut Operation, bytes: Bytes) -> Result<(), Error> {
        let input = operation.input().clone();
        let len = bytes.len();
        match tokio::time::timeout(STALL_TIMEOUT, input.send(bytes)).await {
            Ok(true) => {
                self.record_bytes(len);
                Ok(())
            }
            // The guest's answer says why.
            Ok(false) | Err(_) => {
                let event = self.sandbox.next(operation, STALL_TIMEOUT).await?;
                Err(self.sandbox.unexpected_answer(&event))
            }
        }
    }

    async fn finish_write(
        &self,
        operation: &mut Operation,
        len: u64,
        crc32c: u32,
    ) -> Result<(), Error> {
        match self.sandbox.next(operation, STALL_TIMEOUT).await? {
            OperationEvent::Answer(Response::Transferred(end))
                if (end.bytes, end.crc32c) == (len, crc32c) =>
            {
                Ok(())
            }
            other => Err(self.sandbox.unexpected_answer(&other)),
        }
    }

    /// Reads a whole file into memory, at most 256 MiB. Use [`download`](Self::download) for larger files.
    ///
    /// # Errors
    /// Returns [`ErrorKind::Invalid`] with [`Error::io_kind`], or [`ErrorKind::Lost`].
    pub async fn read(&self, path: &str) -> Result<Bytes, Error> {
        let bytes = self.read_range(path, 0, READ_BYTES + 1).await?;
        if bytes.len() as u64 > READ_BYTES {
            let message = format!(
                "{path} has more than {READ_BYTES} bytes, the maximum for reading into memory; download it instead"
            );
            return Err(Error::new(ErrorKind::Invalid, message));
        }

        Ok(bytes)
    }

    /// Reads at most `len` bytes of a file into memory, starting at byte `offset`.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub async fn read_range(&self, path: &str, offset: u64, len: u64) -> Result<Bytes, Error> {
        let mut all = BytesMut::new();
        let mut reader = self.open_reader(path, offset, Some(len))?;
        while let Some(bytes) = reader.next().await? {
            self.record_bytes(bytes.len());
            all.extend_from_slice(&bytes);
        }
        Ok(all.freeze())
    }

    /// Writes the content of a file to `to`; little of it is held in memory. Returns its size in bytes. A file of more
    /// than 1 GiB (the limit `file_bytes`) is an error: a program can create a file of any size that takes no space in
    /// the guest.
    ///
    /// # Errors
    /// As [`read`](Self::read), and [`ErrorKind::Host`] if writing fails.
    pub async fn download(&self, path: &str, to: impl AsyncWrite + Unpin) -> Result<u64, Error> {
        let max_bytes = self.sandbox.limits().file_bytes;
        self.download_within(path, to, max_bytes).await
    }

    /// Downloads a file of at most `max_bytes` bytes.
    pub(crate) async fn download_within(
        &self,
        path: &str,
        mut to: impl AsyncWrite + Unpin,
        max_bytes: u64,
    ) -> Result<u64, Error> {
        let host = |error: std::io::Error| {
            let message = format!("writing the content of {path} failed: {error}");
            Error::new(ErrorKind::Host, message).caused_by(error)
        };

        // The size in the directory entry proves nothing: count the bytes.
        let mut reader = self.open_reader(path, 0, None)?;
        let mut len = 0;
        while let Some(bytes) = reader.next().await? {
            self.record_bytes(bytes.len());
            len += bytes.len() as u64;
            if len > max_bytes {
                let message =
                    format!("{path} has more than {max_bytes} bytes, the maximum for a download");
                return Err(Error::new(ErrorKind::Invalid, message));
            }

            to.write_all(&bytes).await.map_err(host)?;
        }

        to.flush().await.map_err(host)?;

        Ok(len)
    }

    /// Opens a file for reading from byte `offset` on, at most `len` bytes (none: to its end). Little of it is held in
    /// memory.
    ///
    /// # Errors
    /// As [`read`](Self::read). Errors of the file itself are returned by [`FileReader::next`].
    pub fn open_reader(
        &self,
        path: &str,
        offset: u64,
        len: Option<u64>,
    ) -> Result<FileReader, Error> {
        FileReader::open(&self.sandbox, self.path(path)?, offset, len)
    }

    /// Lists a directory, sorted by name.
    ///
    /// # Errors
    /// As [`read`](Self::read), and [`ErrorKind::Invalid`] for more than 10,000 entries.
    pub async fn list(&self, path: &str) -> Result<Vec<FileInfo>, Error> {
        self.list_recursive(path, 1).await
    }

    /// Lists a directory and those below it, `depth` levels deep, sorted by path. Links are not followed.
    ///
    /// # Errors
    /// As [`list`](Self::list).
    pub async fn list_recursive(&self, path: &str, depth: u32) -> Result<Vec<FileInfo>, Error> {
        let shown = path;
        let path = self.path(path)?;
        let (mut operation, _guard) = self.sandbox.start_operation(None, |op_id, _| {
            Request::ListFiles(ListFiles {
                action: ActionTag,
                op_id: Some(op_id),
                path,
                depth: Some(depth),
            })
        })?;

        // Collect the pages, and check the limits before each one is kept.
        let mut all = Vec::new();
        let (mut held, mut stall_timer) = (0, StallTimer::default());
        let truncated = loop {
            let next = self.sandbox.next(&mut operation, STALL_TIMEOUT);
            match stall_timer.wait(next).await? {
                OperationEvent::Item(Response::Entries(page), bytes)
                    if !page.entries.is_empty() && held + bytes <= LIST_BYTES =>
                {
                    held += bytes;
                    stall_timer.record_bytes(bytes);
                    all.extend(page.entries);
                }
                OperationEvent::Answer(Response::Entries(last)) => {
                    all.extend(last.entries);
                    break last.truncated;
                }
                other => return Err(self.sandbox.unexpected_answer(&other)),
            }

            if all.len() as u64 > self.sandbox.limits().list_entries {
                let what = "a directory listing with too many entries";
                return Err(self.sandbox.protocol_violation(what.into()));
            }
        };

        if truncated {
            let max = self.sandbox.limits().list_entries;
            let message = format!("{shown} has more than {max} entries; list its subdirectories");
            return Err(Error::new(ErrorKind::Invalid, message));
        }

        all.sort_by(|a, b| a.path.cmp(&b.path));

        Ok(all)
    }

    /// Returns information about a path. A link at the path itself is not followed.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub async fn stat(&self, path: &str) -> Result<FileInfo, Error> {
        let path = self.path(path)?;
        let request = |op_id| {
            Request::Stat(Stat {
                action: ActionTag,
                op_id: Some(op_id),
                path,
            })
        };

        match self.sandbox.ask(request).await? {
            Response::Entry(found) => Ok(found.entry),
            other => Err(self.sandbox.unexpected_answer(&other)),
        }
    }

    /// Creates a directory and its missing parents. An existing directory is not an error.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub async fn make_dir(&self, path: &str) -> Result<(), Error> {
        let path = self.path(path)?;
        self.expect_done(|op_id| {
            Request::MakeDir(MakeDir {
                action: ActionTag,
                op_id: Some(op_id),
                path,
                parents: true,
                mode: None,
            })
        })
        .await
    }

    /// Renames a file or directory. An existing file at the new path is an error.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub async fn rename(&self, from: &str, to: &str) -> Result<(), Error> {
        self.move_to(from, to, false).await
    }

    /// Renames a file or directory, and replaces an existing file at the new path.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub async fn replace(&self, from: &str, to: &str) -> Result<(), Error> {
        self.move_to(from, to, true).await
    }

    async fn move_to(&self, from: &str, to: &str, replace: bool) -> Result<(), Error> {
        let (from, to) = (self.path(from)?, self.path(to)?);
        self.expect_done(|op_id| {
            Request::Move(MoveFile {
                action: ActionTag,
                op_id: Some(op_id),
                from,
                to,
                replace,
            })
        })
        .await
    }

    /// Removes a file, a link or an empty directory.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub async fn remove(&self, path: &str) -> Result<(), Error> {
        self.remove_path(path, false).await
    }

    /// Removes a file, or a directory with its content.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub async fn remove_all(&self, path: &str) -> Result<(), Error> {
        self.remove_path(path, true).await
    }

    async fn remove_path(&self, path: &str, recursive: bool) -> Result<(), Error> {
        let path = self.path(path)?;
        let (mut operation, _guard) = self.sandbox.start_operation(None, |op_id, _| {
            Request::Remove(RemoveFile {
                action: ActionTag,
                op_id: Some(op_id),
                path,
                recursive,
            })
        })?;

        match self.sandbox.next(&mut operation, REMOVE_TIMEOUT).await? {
            OperationEvent::Answer(Response::Done(_)) => Ok(()),
            other => Err(self.sandbox.unexpected_answer(&other)),
        }
    }

    /// Watches a directory or file for changes from now on; with `recursive`, also the directories below.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub async fn watch(&self, path: &str, recursive: bool) -> Result<Watcher, Error> {
        let path = self.path(path)?;
        let (mut operation, mark_active) = self.sandbox.start_operation(None, |op_id, _| {
            Request::Watch(Watch {
                action: ActionTag,
                op_id: Some(op_id),
                path,
                recursive,
            })
        })?;

        match self.sandbox.next(&mut operation, STALL_TIMEOUT).await? {
            OperationEvent::Item(Response::Watching(_), _) => {
                Ok(Watcher::new(operation, self.sandbox.clone(), mark_active))
            }
            other => Err(self.sandbox.unexpected_answer(&other)),
        }
    }

    async fn expect_done(&self, request: impl FnOnce(OpId) -> Request) -> Result<(), Error> {
        match self.sandbox.ask(request).await? {
            Response::Done(_) => Ok(()),
            other => Err(self.sandbox.unexpected_answer(&other)),
        }
    }

    fn path(&self, path: &str) -> Result<GuestPath, Error> {
        let path = GuestPath::new(path);
        path.check(self.sandbox.limits()).map_err(invalid)?;
        Ok(path)
    }

    pub(crate) fn sandbox(&self) -> &Sandbox {
        &self.sandbox
    }
}
