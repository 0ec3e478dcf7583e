use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::time::SystemTime;

use rustix::fs::{AtFlags, fstat, statat, unlinkat};

use super::numbered_file::NumberedFile;
use crate::process::{CodeFile, Confinement, FileStamp};

/// The name of a script, which is also that of the runner of contexts: scripts there see the same `$0`.
pub(super) const MAIN_SCRIPT: &str = "main.sh";

/// A file for a script. Dropping it removes the file, if it is still in its place and no script was written to it.
#[derive(Debug)]
pub(crate) struct ScriptFile {
    file: File,
    name: String,
    directory: OwnedFd,
    /// Device and inode.
    id: (u64, u64),
    is_written: bool,
}

impl ScriptFile {
    /// Creates an empty file `main.sh` in the home directory, or the first free name like it.
    ///
    /// # Errors
    /// Returns the kernel's error.
    pub(crate) fn create(confinement: &Confinement) -> std::io::Result<Self> {
        let NumberedFile {
            file,
            name,
            directory,
        } = NumberedFile::create(confinement, "sh", 0o700)?;

        let stat = fstat(&file)?;
        Ok(Self {
            file,
            name,
            directory,
            id: (stat.st_dev, stat.st_ino),
            is_written: false,
        })
    }

    /// The name of the file in the home directory.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Whether the file is still in its place and empty. A program may have replaced it.
    pub(super) fn is_untouched(&self) -> bool {
        let stat = statat(&self.directory, &self.name, AtFlags::SYMLINK_NOFOLLOW);
        stat.is_ok_and(|stat| (stat.st_dev, stat.st_ino) == self.id && stat.st_size == 0)
    }

    /// Writes the script. The file is then closed, because a file that is open for writing cannot be executed.
    ///
    /// # Errors
    /// Returns the kernel's error, for example that of a full disk. The file is then removed.
    pub(crate) fn write(mut self, code: &str) -> std::io::Result<CodeFile> {
        let directory = self.directory.try_clone()?;
        if let Err(error) = self.file.write_all(code.as_bytes()) {
            let _ = self.file.set_len(0);
            return Err(error);
        }

        self.is_written = true;
        Ok(CodeFile {
            directory,
            name: self.name.clone(),
            written: Some(FileStamp::new(
                &fstat(&self.file)?,
                code.len() as u64,
                SystemTime::now(),
            )),
        })
    }
}

impl Drop for ScriptFile {
    fn drop(&mut self) {
        if !self.is_written && self.is_untouched() {
            let _ = unlinkat(&self.directory, &self.name, AtFlags::empty());
        }
    }
}
