use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;

use fumehood_protocol::{
    FileKind, InputCredit, OpId, Response, Transferred, WireError, WriteFile, too_large,
};
use rustix::fs::{AtFlags, Mode, OFlags, fchmod, fstat, openat, renameat, statat, unlinkat};
use rustix::io::Errno;

use crate::agent::Agent;
use crate::connection::Connection;
use crate::dispatch::can_be_fed;
use crate::outbox::Outbox;

use super::transfer::Step;
use super::{PERMISSIONS, Place, Transfer, kind, make_parents, place, refused};

/// A file that is being written, under another name until all of it is there.
#[derive(Debug)]
pub(crate) struct Writing {
    pub(crate) op_id: Option<OpId>,
    request: WriteFile,
    file: File,
    unnamed: Unnamed,
    name: String,
    mode: u32,
    bytes: u64,
    crc32c: u32,
    /// Bytes that were written and for which no credit was given yet.
    taken: u64,
}

/// How names of files begin that are not what they are to be yet.
pub(super) const PREFIX: &str = ".fumehood-upload-";
/// Permissions of a new file.
const NEW_FILE: u32 = 0o644;

/// A file's name until it gets its own; removed with this.
#[derive(Debug)]
struct Unnamed {
    directory: OwnedFd,
    name: String,
    is_named: bool,
}

impl Drop for Unnamed {
    fn drop(&mut self) {
        if !self.is_named {
            // A program may have removed it.
            let _ = unlinkat(&self.directory, &self.name, AtFlags::empty());
        }
    }
}

/// Begins to write a file.
///
/// # Errors
/// `path_error`.
pub(crate) fn write(
    connection: &mut Connection,
    request: WriteFile,
    agent: &Agent,
) -> Result<(), WireError> {
    request.check(&agent.settings.limits)?;
    can_be_fed(true, request.op_id)?;
    let refuse = refused("write", &request.path, agent);
    if request.parents {
        make_parents(&request.path, agent).map_err(&refuse)?;
    }
    let Place { directory, name } = place(&request.path, agent).map_err(&refuse)?;
    let look = || statat(&directory, &name, AtFlags::SYMLINK_NOFOLLOW);
    let mode = match agent.confinement.as_user(look) {
        Ok(there) => match kind(&there) {
            FileKind::File => there.st_mode & PERMISSIONS,
            FileKind::Link => NEW_FILE,
            FileKind::Directory => return Err(refuse(Errno::ISDIR)),
            FileKind::Other => return Err(refuse(Errno::OPNOTSUPP)),
        },
        Err(Errno::NOENT) => NEW_FILE,
        Err(error) => return Err(refuse(error)),
    };
    let room = rustix::fs::fstatvfs(&directory).map_err(&refuse)?;
    let room = room.f_bavail.saturating_mul(room.f_frsize);
    if request.size.is_some_and(|size| size > room) {
        return Err(refuse(Errno::NOSPC));
    }
    let (file, unnamed) = begin(directory, agent).map_err(&refuse)?;
    drop(refuse);
    connection.transfers.push(Transfer::Write(Writing {
        op_id: request.op_id,
        mode: request.mode.unwrap_or(mode),
        request,
        file,
        unnamed,
        name,
        bytes: 0,
        crc32c: 0,
        taken: 0,
    }));
    Ok(())
}

fn begin(directory: OwnedFd, agent: &Agent) -> rustix::io::Result<(File, Unnamed)> {
    let mut random = [0; 8];
    rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())?;
    let name = format!("{PREFIX}{:016x}", u64::from_le_bytes(random));
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::WRONLY | OFlags::CLOEXEC;
    let make = || openat(&directory, &name, flags, Mode::from_raw_mode(0o600));
    let file = agent.confinement.as_user(make)?;
    let unnamed = Unnamed {
        directory,
        name,
        is_named: false,
    };
    Ok((file.into(), unnamed))
}

impl Writing {
    /// Takes the next bytes.
    pub(super) fn take(
        &mut self,
        bytes: &[u8],
        eof: bool,
        outbox: &mut Outbox,
        agent: &Agent,
    ) -> Step {
        let limits = &agent.settings.limits;
        let total = self.bytes + bytes.len() as u64;
        if total > limits.file_bytes {
            return Step::Failed(too_large(total, limits));
        }
        if let Err(error) = self.file.write_all(bytes) {
            let errno = Errno::from_io_error(&error).unwrap_or(Errno::IO);
            return Step::Failed(refused("write", &self.request.path, agent)(errno));
        }
        self.bytes = total;
        self.crc32c = crate::checksum::append(self.crc32c, bytes);
        if eof {
            return self.finish(outbox, agent);
        }
        self.taken += bytes.len() as u64;
        if self.taken >= limits.input_bytes / 2 {
            let (op_id, bytes) = (self.op_id, std::mem::take(&mut self.taken));
            outbox.answer(&Response::Credit(InputCredit { op_id, bytes }));
        }
        Step::More
    }

    /// Gives the file its permissions and its name.
    fn finish(&mut self, outbox: &mut Outbox, agent: &Agent) -> Step {
        if self.request.size.is_some_and(|size| size != self.bytes) {
            let (said, came) = (self.request.size.unwrap_or(0), self.bytes);
            let message = format!("field `size`: {said} bytes were announced, and {came} came");
            let error_type = fumehood_protocol::ErrorType::RequestError;
            return Step::Failed(WireError::new(error_type, message));
        }
        match agent.confinement.as_user(|| self.name()) {
            Ok(()) => {
                outbox.answer(&Response::Transferred(Transferred {
                    op_id: self.op_id,
                    bytes: self.bytes,
                    crc32c: self.crc32c,
                    mode: self.mode,
                }));
                Step::Done
            }
            Err(error) => Step::Failed(refused("write", &self.request.path, agent)(error)),
        }
    }

    fn name(&mut self) -> rustix::io::Result<()> {
        fchmod(&self.file, Mode::from_raw_mode(self.mode))?;
        let Unnamed {
            directory, name, ..
        } = &self.unnamed;
        renameat(directory, name, directory, &self.name)?;
        self.unnamed.is_named = true;
        // A program may have put something else under the first name.
        let there = statat(
            &self.unnamed.directory,
            &self.name,
            AtFlags::SYMLINK_NOFOLLOW,
        )?;
        let ours = fstat(&self.file)?;
        if (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino) {
            Ok(())
        } else {
            Err(Errno::STALE)
        }
    }
}
