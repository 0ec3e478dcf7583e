//! The files of programs in the home directory: `main.py` and so on, or the first free name like it.

use std::fs::File;
use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, Mode, OFlags, openat, unlinkat};
use rustix::io::Errno;

use crate::process::Confinement;

/// Maximum number of names that are tried.
const MAX_NAME_ATTEMPTS: u32 = 1000;

/// An empty file for a program, which belongs to the user that the code runs as.
pub(super) struct NumberedFile {
    pub(super) file: File,
    /// The name in `directory`.
    pub(super) name: String,
    pub(super) directory: OwnedFd,
}

impl NumberedFile {
    /// Creates `main.EXTENSION` in the home directory, or `main.2.EXTENSION` and so on, since programs that run at the
    /// same time need different names. The directory may belong to the user that the code runs as: the file is created,
    /// never opened, and no link is followed.
    ///
    /// # Errors
    /// Returns the kernel's error.
    pub(super) fn create(
        confinement: &Confinement,
        extension: &str,
        mode: u32,
    ) -> std::io::Result<Self> {
        let directory = confinement.working_dir.try_clone()?;
        let flags =
            OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::WRONLY | OFlags::CLOEXEC;
        let create = |name: &str| openat(&directory, name, flags, Mode::from_raw_mode(mode));

        let mut name = format!("main.{extension}");
        let mut file = create(&name);
        for number in 2..MAX_NAME_ATTEMPTS {
            if file.as_ref().err() != Some(&Errno::EXIST) {
                break;
            }
            name = format!("main.{number}.{extension}");
            file = create(&name);
        }
        let file = File::from(file?);

        if let Some((user, group)) = confinement.credentials
            && let Err(error) = std::os::unix::fs::fchown(&file, Some(user), Some(group))
        {
            let _ = unlinkat(&directory, &name, AtFlags::empty());
            return Err(error);
        }

        Ok(Self {
            file,
            name,
            directory,
        })
    }
}
