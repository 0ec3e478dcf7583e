use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;

use fumehood_protocol::{
    ErrorType, FileKind, InputCredit, OpId, Response, Transferred, WireError, WriteFile, too_large,
};
use rustix::fs::{AtFlags, Mode, OFlags, fchmod, fstat, openat, renameat, statat, unlinkat};
use rustix::io::Errno;

use super::path::{Location, PERMISSIONS, file_kind, locate, make_parents, path_error};
use super::step::Step;
use crate::agent::Agent;
use crate::transport::Outbox;

/// A file that the client is sending. It has a temporary name until it is complete.
#[derive(Debug)]
pub(crate) struct FileUpload {
    pub(crate) op_id: Option<OpId>,
    request: WriteFile,
    file: File,
    temporary: TemporaryName,
    name: String,
    mode: u32,
    bytes: u64,
    crc32c: u32,
    /// Bytes that were written and for which the client got no credit yet.
    uncredited: u64,
}

/// Prefix of temporary names.
pub(super) const UPLOAD_PREFIX: &str = ".fumehood-upload-";
/// Permissions of a new file.
const NEW_FILE: u32 = 0o644;

/// The temporary name of a file. Dropping it removes the file, unless it was renamed.
#[derive(Debug)]
struct TemporaryName {
    directory: OwnedFd,
    name: String,
    is_renamed: bool,
}

impl Drop for TemporaryName {
    fn drop(&mut self) {
        if !self.is_renamed {
            // A program may have removed it.
            let _ = unlinkat(&self.directory, &self.name, AtFlags::empty());
        }
    }
}

impl FileUpload {
    /// Starts to write a file.
    ///
    /// # Errors
    /// `path_error`.
    pub(crate) fn start(request: WriteFile, agent: &Agent) -> Result<Self, WireError> {
        let error = path_error("write", &request.path, agent);
        if request.parents {
            make_parents(&request.path, agent).map_err(&error)?;
        }

        // A file that is replaced passes on its permissions.
        let Location { directory, name } = locate(&request.path, agent).map_err(&error)?;
        let look = || statat(&directory, &name, AtFlags::SYMLINK_NOFOLLOW);
        let mode = match agent.confinement.as_user(look) {
            Ok(existing) => match file_kind(&existing) {
                FileKind::File => existing.st_mode & PERMISSIONS,
                FileKind::Link => NEW_FILE,
                FileKind::Directory => return Err(error(Errno::ISDIR)),
                FileKind::Other => return Err(error(Errno::OPNOTSUPP)),
            },
            Err(Errno::NOENT) => NEW_FILE,
            Err(errno) => return Err(error(errno)),
        };

        // Fail before the first byte if the announced size does not fit.
        let disk = rustix::fs::fstatvfs(&directory).map_err(&error)?;
        let free = disk.f_bavail.saturating_mul(disk.f_frsize);
        if request.size.is_some_and(|size| size > free) {
            return Err(error(Errno::NOSPC));
        }

        let (file, temporary) = create_temporary(directory, agent).map_err(&error)?;
        drop(error);

        Ok(Self {
            op_id: request.op_id,
            mode: request.mode.unwrap_or(mode),
            request,
            file,
            temporary,
            name,
            bytes: 0,
            crc32c: 0,
            uncredited: 0,
        })
    }

    /// Writes the next bytes.
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
            return Step::Failed(path_error("write", &self.request.path, agent)(errno));
        }

        self.bytes = total;
        self.crc32c = crate::checksum::append(self.crc32c, bytes);
        if eof {
            return self.finish(outbox, agent);
        }

        // Give the client credit for more.
        self.uncredited += bytes.len() as u64;
        if self.uncredited >= limits.input_bytes / 2 {
            let (op_id, bytes) = (self.op_id, std::mem::take(&mut self.uncredited));
            outbox.answer(&Response::Credit(InputCredit { op_id, bytes }));
        }

        Step::More
    }

    /// Gives the complete file its permissions and its name.
    fn finish(&mut self, outbox: &mut Outbox, agent: &Agent) -> Step {
        let bytes = self.bytes;
        if let Some(size) = self.request.size.filter(|size| *size != bytes) {
            let message =
                format!("field `size`: {size} bytes were announced, but {bytes} were sent");
            return Step::Failed(WireError::new(ErrorType::RequestError, message));
        }

        match agent.confinement.as_user(|| self.rename_into_place()) {
            Ok(()) => {
                outbox.answer(&Response::Transferred(Transferred {
                    op_id: self.op_id,
                    bytes: self.bytes,
                    crc32c: self.crc32c,
                    mode: self.mode,
                }));

                Step::Done
            }
            Err(error) => Step::Failed(path_error("write", &self.request.path, agent)(error)),
        }
    }

    fn rename_into_place(&mut self) -> rustix::io::Result<()> {
        fchmod(&self.file, Mode::from_raw_mode(self.mode))?;
        let TemporaryName {
            directory, name, ..
        } = &self.temporary;
        renameat(directory, name, directory, &self.name)?;
        self.temporary.is_renamed = true;

        // A program may have put another file under the temporary name.
        let directory = &self.temporary.directory;
        let renamed = statat(directory, &self.name, AtFlags::SYMLINK_NOFOLLOW)?;
        let written = fstat(&self.file)?;

        if (renamed.st_dev, renamed.st_ino) == (written.st_dev, written.st_ino) {
            Ok(())
        } else {
            Err(Errno::STALE)
        }
    }
}

/// Creates a file with a random temporary name.
fn create_temporary(
    directory: OwnedFd,
    agent: &Agent,
) -> rustix::io::Result<(File, TemporaryName)> {
    let mut random = [0; 8];
    rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())?;
    let name = format!("{UPLOAD_PREFIX}{:016x}", u64::from_le_bytes(random));

    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::WRONLY | OFlags::CLOEXEC;
    let create = || openat(&directory, &name, flags, Mode::from_raw_mode(0o600));
    let file = agent.confinement.as_user(create)?;
    let temporary = TemporaryName {
        directory,
        name,
        is_renamed: false,
    };

    Ok((file.into(), temporary))
}
