use std::os::fd::OwnedFd;

use fumehood_protocol::{ReadFile, Response, Stream, StreamSummary, Transferred, WireError};
use rustix::buffer::spare_capacity;
use rustix::fs::{FileType, OFlags, fstat};
use rustix::io::Errno;

use super::path::{PERMISSIONS, open_path, path_error};
use super::step::{Step, chunk_bytes};
use crate::agent::Agent;
use crate::operation::Framing;
use crate::transport::{Encoding, Outbox};

/// A file that is being read and sent to the client.
#[derive(Debug)]
pub(crate) struct FileDownload {
    pub(crate) framing: Framing,
    request: ReadFile,
    file: OwnedFd,
    /// Offset of the next byte.
    at: u64,
    /// Bytes that are still to be sent.
    remaining: u64,
    credit: Option<u64>,
    mode: u32,
    summary: StreamSummary,
}

impl FileDownload {
    /// Starts to read a file.
    ///
    /// # Errors
    /// `path_error`.
    pub(crate) fn start(
        request: ReadFile,
        encoding: Encoding,
        agent: &Agent,
    ) -> Result<Self, WireError> {
        let error = path_error("read", &request.path, agent);
        let file = open_path(request.path.as_str(), OFlags::RDONLY, agent).map_err(&error)?;
        let stat = fstat(&file).map_err(&error)?;

        // Only regular files have contents that can be read without waiting.
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => {}
            FileType::Directory => return Err(error(Errno::ISDIR)),
            _ => return Err(error(Errno::OPNOTSUPP)),
        }

        drop(error);

        Ok(Self {
            framing: Framing {
                op_id: request.op_id,
                encoding,
                seq: 0,
                history: None,
            },
            file,
            at: request.offset.unwrap_or(0),
            remaining: request.len.unwrap_or(u64::MAX),
            credit: request.credit,
            mode: stat.st_mode & PERMISSIONS,
            summary: StreamSummary::default(),
            request,
        })
    }

    pub(super) fn has_work(&self) -> bool {
        self.credit != Some(0)
    }

    pub(super) fn add_credit(&mut self, bytes: u64) {
        if let Some(credit) = &mut self.credit {
            *credit = credit.saturating_add(bytes);
        }
    }

    /// Sends the next chunk.
    pub(super) fn step(&mut self, outbox: &mut Outbox, agent: &Agent) -> Step {
        if self.credit == Some(0) {
            return Step::More;
        }

        let chunk = chunk_bytes(&agent.settings.limits);
        let allowed = self.credit.unwrap_or(u64::MAX).min(self.remaining);
        let max = usize::try_from(allowed).unwrap_or(chunk).min(chunk);
        let mut buffer = outbox.take_buffer(chunk);

        let read = if max == chunk {
            rustix::io::pread(&self.file, spare_capacity(&mut buffer), self.at)
        } else {
            buffer.resize(max, 0);
            let read = rustix::io::pread(&self.file, &mut buffer[..], self.at);
            buffer.truncate(read.unwrap_or(0));
            read
        };

        match read {
            Ok(0) => {
                outbox.return_buffer(buffer);
                self.finish(outbox)
            }
            Ok(bytes) => {
                self.send(buffer, outbox);
                // A short read is the end of the file: finish in the same step.
                if self.remaining == 0 || bytes < max {
                    self.finish(outbox)
                } else {
                    Step::More
                }
            }
            Err(Errno::INTR) => Step::More,
            Err(error) => Step::Failed(path_error("read", &self.request.path, agent)(error)),
        }
    }

    fn send(&mut self, buffer: Vec<u8>, outbox: &mut Outbox) {
        let bytes = buffer.len() as u64;
        self.at += bytes;
        self.remaining -= bytes;

        if let Some(credit) = &mut self.credit {
            *credit -= bytes;
        }

        self.summary.bytes += bytes;
        self.summary.crc32c = crate::checksum::append(self.summary.crc32c, &buffer);
        let seq = self.framing.seq;
        self.framing.send(Stream::File, seq, buffer, outbox);
        self.framing.seq += 1;
    }

    fn finish(&self, outbox: &mut Outbox) -> Step {
        outbox.answer(&Response::Transferred(Transferred {
            op_id: self.framing.op_id,
            bytes: self.summary.bytes,
            crc32c: self.summary.crc32c,
            mode: self.mode,
        }));

        Step::Done
    }
}
