use std::os::fd::OwnedFd;

use fumehood_protocol::{ReadFile, Response, Stream, StreamSummary, Transferred, WireError};
use rustix::buffer::spare_capacity;
use rustix::fs::{FileType, OFlags, fstat};
use rustix::io::Errno;

use crate::agent::Agent;
use crate::connection::Connection;
use crate::outbox::Outbox;
use crate::output::Framing;

use super::transfer::{Step, chunk_bytes};
use super::{PERMISSIONS, Transfer, open, refused};

/// A file that is being read.
#[derive(Debug)]
pub(crate) struct Reading {
    pub(crate) framing: Framing,
    request: ReadFile,
    file: OwnedFd,
    /// The next byte.
    at: u64,
    /// Bytes that are still wanted.
    left: u64,
    credit: Option<u64>,
    mode: u32,
    summary: StreamSummary,
}

/// Begins to read a file.
///
/// # Errors
/// `path_error`.
pub(crate) fn read(
    connection: &mut Connection,
    request: ReadFile,
    agent: &Agent,
) -> Result<(), WireError> {
    request.path.check(&agent.settings.limits)?;
    let refuse = refused("read", &request.path, agent);
    let file = open(request.path.as_str(), OFlags::RDONLY, agent).map_err(&refuse)?;
    let stat = fstat(&file).map_err(&refuse)?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => {}
        FileType::Directory => return Err(refuse(Errno::ISDIR)),
        _ => return Err(refuse(Errno::OPNOTSUPP)),
    }
    drop(refuse);
    let framing = Framing {
        op_id: request.op_id,
        encoding: connection.session.encoding,
        seq: 0,
        kept: None,
    };
    connection.transfers.push(Transfer::Read(Reading {
        framing,
        file,
        at: request.offset.unwrap_or(0),
        left: request.len.unwrap_or(u64::MAX),
        credit: request.credit,
        mode: stat.st_mode & PERMISSIONS,
        summary: StreamSummary::default(),
        request,
    }));
    Ok(())
}

impl Reading {
    pub(super) fn has_work(&self) -> bool {
        self.credit != Some(0)
    }

    pub(super) fn add_credit(&mut self, bytes: u64) {
        if let Some(credit) = &mut self.credit {
            *credit = credit.saturating_add(bytes);
        }
    }

    /// Sends the next piece.
    pub(super) fn step(&mut self, outbox: &mut Outbox, agent: &Agent) -> Step {
        if self.credit == Some(0) {
            return Step::More;
        }
        let chunk = chunk_bytes(&agent.settings.limits);
        let allowed = self.credit.unwrap_or(u64::MAX).min(self.left);
        let most = usize::try_from(allowed).unwrap_or(chunk).min(chunk);
        let mut buffer = outbox.buffer(chunk);
        let read = if most == chunk {
            rustix::io::pread(&self.file, spare_capacity(&mut buffer), self.at)
        } else {
            buffer.resize(most, 0);
            let read = rustix::io::pread(&self.file, &mut buffer[..], self.at);
            buffer.truncate(read.unwrap_or(0));
            read
        };
        match read {
            Ok(0) => {
                outbox.give_back(buffer);
                self.finish(outbox)
            }
            Ok(bytes) => {
                self.at += bytes as u64;
                self.left -= bytes as u64;
                if let Some(credit) = &mut self.credit {
                    *credit -= bytes as u64;
                }
                self.summary.bytes += bytes as u64;
                self.summary.crc32c = crate::checksum::append(self.summary.crc32c, &buffer);
                let seq = self.framing.seq;
                self.framing.send(Stream::File, seq, buffer, outbox);
                self.framing.seq += 1;
                // A short file is told in one go.
                let ends = self.left == 0 || bytes < most;
                if ends {
                    self.finish(outbox)
                } else {
                    Step::More
                }
            }
            Err(Errno::INTR) => Step::More,
            Err(error) => Step::Failed(refused("read", &self.request.path, agent)(error)),
        }
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
