use std::time::Duration;

use bytes::{Bytes, BytesMut};
use fumehood_protocol::{
    ActionTag, FileInfo, GuestPath, ListFiles, MakeDir, MoveFile, OpId, RemoveFile, Request,
    Response, Stat, Watch, WriteFile,
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::file_reader::FileReader;
use super::sandbox::{Sandbox, invalid};
use super::stall_timer::{Patience, STALL};
use super::watcher::Watcher;
use crate::agent::{FRAME_BYTES, Operation, OperationEvent};
use crate::error::{Error, ErrorKind};
use crate::vm::Busy;

/// The files of a [`Sandbox`], with the rights of the user that programs run as. Paths are absolute, or
/// relative to that user's home. What comes back from the guest (names, content) is as hostile as its
/// output.
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
}

/// How a file is to be written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WriteOptions {
    /// Its permissions, 0 to 0o7777; none = those of the file that it replaces, else 0o644.
    pub mode: Option<u32>,
    /// Makes the directories that are missing on the way.
    pub parents: bool,
    /// How many bytes will come, where that is known: room is looked for before the first.
    pub size: Option<u64>,
}

/// The most that [`Files::read`] holds in memory, in bytes.
const READ_BYTES: u64 = 256 * 1024 * 1024;

/// The most that a listing takes in memory, in bytes of what the guest sends: 10,000 entries take 2 MB.
const LIST_BYTES: usize = 16 * 1024 * 1024;

/// How long a removal may take: a tree of 100,000 files takes 10 s under emulation.
const REMOVAL: Duration = Duration::from_secs(600);

/// One read of what is uploaded, in bytes: a frame.
const PIECE_BYTES: usize = 64 * 1024;

impl Sandbox {
    /// The sandbox's files.
    #[must_use]
    pub fn files(&self) -> Files {
        Files::new(self.clone())
    }
}

impl Files {
    fn new(sandbox: Sandbox) -> Self {
        Self { sandbox }
    }

    /// Writes a file: it is there with all of these bytes, or as it was before. A link at the path itself
    /// is replaced, not followed.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`], with [`Error::io_kind`]; [`ErrorKind::Lost`].
    pub async fn write(&self, path: &str, bytes: impl Into<Bytes>) -> Result<(), Error> {
        self.write_with_options(path, bytes, WriteOptions::default())
            .await
    }

    /// The same, with permissions and directories.
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
            // The request, the bytes and their end in one go.
            let (mut operation, _busy) = self.begin_write(path, options, Some(bytes))?;
            return self.written(&mut operation, len, crc32c).await;
        }
        let (mut operation, _busy) = self.begin_write(path, options, None)?;
        self.send(&mut operation, bytes).await?;
        operation.input().end();
        self.written(&mut operation, len, crc32c).await
    }

    /// Writes a file from a reader, as [`write`](Self::write) does; little of it is held at once. Returns
    /// how many bytes it has.
    ///
    /// # Errors
    /// As [`write`](Self::write), and [`ErrorKind::Host`] when it cannot be read.
    pub async fn upload(
        &self,
        path: &str,
        mut from: impl AsyncRead + Unpin,
        options: WriteOptions,
    ) -> Result<u64, Error> {
        let (mut operation, _busy) = self.begin_write(path, options, None)?;
        let (mut len, mut crc32c) = (0, 0);
        loop {
            let mut piece = BytesMut::with_capacity(PIECE_BYTES);
            while piece.len() < PIECE_BYTES {
                match from.read_buf(&mut piece).await {
                    Ok(0) => break,
                    Ok(_) => {}
                    Err(error) => {
                        let message =
                            format!("what is to be written to {path} cannot be read: {error}");
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
        self.written(&mut operation, len, crc32c).await?;
        Ok(len)
    }

    fn begin_write(
        &self,
        path: &str,
        options: WriteOptions,
        input: Option<Bytes>,
    ) -> Result<(Operation, Busy), Error> {
        let request = WriteFile {
            action: ActionTag,
            op_id: None,
            path: GuestPath::new(path),
            mode: options.mode,
            size: options.size,
            parents: options.parents,
        };
        request.check(self.sandbox.limits()).map_err(invalid)?;
        self.sandbox.operate(input, |op_id, _| {
            Request::WriteFile(WriteFile {
                op_id: Some(op_id),
                ..request
            })
        })
    }

    /// Sends a piece, unless the guest has ended the operation meanwhile or does nothing.
    async fn send(&self, operation: &mut Operation, bytes: Bytes) -> Result<(), Error> {
        let input = operation.input().clone();
        match tokio::time::timeout(STALL, input.send(bytes)).await {
            Ok(true) => Ok(()),
            // It says why.
            Ok(false) | Err(_) => {
                let event = self.sandbox.next(operation, STALL).await?;
                Err(self.sandbox.odd(&event))
            }
        }
    }

    async fn written(&self, operation: &mut Operation, len: u64, crc32c: u32) -> Result<(), Error> {
        match self.sandbox.next(operation, STALL).await? {
            OperationEvent::Answer(Response::Transferred(end))
                if (end.bytes, end.crc32c) == (len, crc32c) =>
            {
                Ok(())
            }
            other => Err(self.sandbox.odd(&other)),
        }
    }

    /// All of a file. One of more than 256 MiB is an error: [`download`](Self::download) holds none.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`], with [`Error::io_kind`]; [`ErrorKind::Lost`].
    pub async fn read(&self, path: &str) -> Result<Bytes, Error> {
        self.read_range(path, 0, READ_BYTES + 1).await.and_then(|bytes| {
            if bytes.len() as u64 <= READ_BYTES {
                return Ok(bytes);
            }
            let message = format!(
                "{path} has more than {READ_BYTES} bytes, the most that is read into memory; download it instead"
            );
            Err(Error::new(ErrorKind::Invalid, message))
        })
    }

    /// At most `len` bytes of a file, from this one on.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub async fn read_range(&self, path: &str, offset: u64, len: u64) -> Result<Bytes, Error> {
        let mut all = BytesMut::new();
        let mut reading = self.open_reader(path, offset, Some(len))?;
        while let Some(bytes) = reading.next().await? {
            all.extend_from_slice(&bytes);
        }
        Ok(all.freeze())
    }

    /// Writes a file's content to `to`; little of it is held at once. Returns how many bytes it has. A file of
    /// more than 1 GiB (the limit `file_bytes`) is an error: a program can make one of any size that takes no
    /// room in the guest.
    ///
    /// # Errors
    /// As [`read`](Self::read), and [`ErrorKind::Host`] when it cannot be written.
    pub async fn download(&self, path: &str, to: impl AsyncWrite + Unpin) -> Result<u64, Error> {
        let most = self.sandbox.limits().file_bytes;
        self.download_within(path, to, most).await
    }

    /// The same of a file of at most so many bytes.
    pub(crate) async fn download_within(
        &self,
        path: &str,
        mut to: impl AsyncWrite + Unpin,
        most: u64,
    ) -> Result<u64, Error> {
        let host = |error: std::io::Error| {
            let message = format!("the content of {path} cannot be written here: {error}");
            Error::new(ErrorKind::Host, message).caused_by(error)
        };
        let mut reading = self.open_reader(path, 0, None)?;
        let mut len = 0;
        while let Some(bytes) = reading.next().await? {
            len += bytes.len() as u64;
            if len > most {
                let message =
                    format!("{path} has more than {most} bytes, the most that is downloaded");
                return Err(Error::new(ErrorKind::Invalid, message));
            }
            to.write_all(&bytes).await.map_err(host)?;
        }
        to.flush().await.map_err(host)?;
        Ok(len)
    }

    /// Begins to read a file from this byte on, at most `len` bytes of it (none: to its end): little of it is
    /// held at once.
    ///
    /// # Errors
    /// As [`read`](Self::read); what the guest says of the file comes with [`FileReader::next`].
    pub fn open_reader(
        &self,
        path: &str,
        offset: u64,
        len: Option<u64>,
    ) -> Result<FileReader, Error> {
        FileReader::begin(&self.sandbox, self.path(path)?, offset, len)
    }

    /// What is in a directory, sorted by name.
    ///
    /// # Errors
    /// As [`read`](Self::read); [`ErrorKind::Invalid`] for more than 10,000 entries.
    pub async fn list(&self, path: &str) -> Result<Vec<FileInfo>, Error> {
        self.list_recursive(path, 1).await
    }

    /// The same with what is below it, `depth` levels deep; links are not followed.
    ///
    /// # Errors
    /// As [`list`](Self::list).
    pub async fn list_recursive(&self, path: &str, depth: u32) -> Result<Vec<FileInfo>, Error> {
        let shown = path;
        let path = self.path(path)?;
        let (mut operation, _busy) = self.sandbox.operate(None, |op_id, _| {
            Request::ListFiles(ListFiles {
                action: ActionTag,
                op_id: Some(op_id),
                path,
                depth: Some(depth),
            })
        })?;
        let mut all = Vec::new();
        let (mut held, mut patience) = (0, Patience::default());
        let truncated = loop {
            let next = self.sandbox.next(&mut operation, STALL);
            match patience.wait(next).await? {
                OperationEvent::Item(Response::Entries(some), bytes)
                    if !some.entries.is_empty() && held + bytes <= LIST_BYTES =>
                {
                    held += bytes;
                    patience.came(bytes);
                    all.extend(some.entries);
                }
                OperationEvent::Answer(Response::Entries(last)) => {
                    all.extend(last.entries);
                    break last.truncated;
                }
                other => return Err(self.sandbox.odd(&other)),
            }
            if all.len() as u64 > self.sandbox.limits().list_entries {
                let what = "more entries of a directory than there may be";
                return Err(self.sandbox.violated(what.into()));
            }
        };
        if truncated {
            let most = self.sandbox.limits().list_entries;
            let message =
                format!("{shown} holds more than {most} entries; list directories below it");
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        all.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(all)
    }

    /// What is at a path. A link at the path itself is not followed.
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
            other => Err(self.sandbox.odd(&other)),
        }
    }

    /// Makes a directory, and those on the way to it; one that is there is no error.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub async fn make_dir(&self, path: &str) -> Result<(), Error> {
        let path = self.path(path)?;
        self.done(|op_id| {
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

    /// Gives a file or directory another name; a file that has that name already is an error.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub async fn rename(&self, from: &str, to: &str) -> Result<(), Error> {
        self.move_to(from, to, false).await
    }

    /// The same, in the place of a file that has that name.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub async fn replace(&self, from: &str, to: &str) -> Result<(), Error> {
        self.move_to(from, to, true).await
    }

    async fn move_to(&self, from: &str, to: &str, replace: bool) -> Result<(), Error> {
        let (from, to) = (self.path(from)?, self.path(to)?);
        self.done(|op_id| {
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
        self.remove_it(path, false).await
    }

    /// Removes a file, or a directory with all that is in it.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub async fn remove_all(&self, path: &str) -> Result<(), Error> {
        self.remove_it(path, true).await
    }

    async fn remove_it(&self, path: &str, recursive: bool) -> Result<(), Error> {
        let path = self.path(path)?;
        let (mut operation, _busy) = self.sandbox.operate(None, |op_id, _| {
            Request::Remove(RemoveFile {
                action: ActionTag,
                op_id: Some(op_id),
                path,
                recursive,
            })
        })?;
        match self.sandbox.next(&mut operation, REMOVAL).await? {
            OperationEvent::Answer(Response::Done(_)) => Ok(()),
            other => Err(self.sandbox.odd(&other)),
        }
    }

    /// Tells what changes in a directory, or of a file, from when this returns; with `recursive`, in the
    /// directories below as well.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub async fn watch(&self, path: &str, recursive: bool) -> Result<Watcher, Error> {
        let path = self.path(path)?;
        let (mut operation, busy) = self.sandbox.operate(None, |op_id, _| {
            Request::Watch(Watch {
                action: ActionTag,
                op_id: Some(op_id),
                path,
                recursive,
            })
        })?;
        match self.sandbox.next(&mut operation, STALL).await? {
            OperationEvent::Item(Response::Watching(_), _) => {
                Ok(Watcher::new(operation, self.sandbox.clone(), busy))
            }
            other => Err(self.sandbox.odd(&other)),
        }
    }

    async fn done(&self, request: impl FnOnce(OpId) -> Request) -> Result<(), Error> {
        match self.sandbox.ask(request).await? {
            Response::Done(_) => Ok(()),
            other => Err(self.sandbox.odd(&other)),
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
