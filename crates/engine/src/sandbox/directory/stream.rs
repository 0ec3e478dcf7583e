//! The ends of a tar stream on threads: a writer for packing, and a reader that enforces limits for unpacking.

use std::io::{self, Read, Write};

use bytes::Bytes;
use tokio::sync::mpsc;

/// Number of chunks in flight between the guest and the thread that packs or unpacks.
pub(super) const CHUNKS: usize = 16;
/// Size of a chunk, in bytes.
const CHUNK_BYTES: usize = 64 * 1024;
/// Maximum content that a guest can make this host write, in bytes.
pub(super) const MAX_TREE_BYTES: u64 = 1024 * 1024 * 1024;

/// Maximum length of a path below the directory, and of a link's target, in bytes: what Linux accepts in one call.
pub(super) const MAX_PATH_BYTES: usize = 4095;

/// A part of a file that is not a hole, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) offset: u64,
    pub(super) len: u64,
}

/// Sends the output of a thread in chunks.
pub(super) struct ChunkWriter {
    to: mpsc::Sender<Bytes>,
    chunk: Vec<u8>,
}

impl ChunkWriter {
    pub(super) fn new(to: mpsc::Sender<Bytes>) -> Self {
        Self {
            to,
            chunk: Vec::with_capacity(CHUNK_BYTES),
        }
    }

    pub(super) fn finish(mut self) -> io::Result<()> {
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

/// Reads what arrives from a guest on a thread, up to [`MAX_TREE_BYTES`].
pub(super) struct ChunkReader {
    from: mpsc::Receiver<Bytes>,
    chunk: Bytes,
    /// Bytes that may still be read in total.
    left: u64,
}

impl ChunkReader {
    /// Creates a reader of a chunk that has arrived, and of those that follow.
    pub(super) fn new(first: Bytes, from: mpsc::Receiver<Bytes>) -> Self {
        Self {
            from,
            chunk: first,
            left: MAX_TREE_BYTES,
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

        buffer[..len].copy_from_slice(&self.chunk.split_to(len));

        Ok(len)
    }
}

pub(super) fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_string())
}
