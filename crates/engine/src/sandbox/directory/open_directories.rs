use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{
    Mode, OFlags, Timespec, Timestamps, UTIME_OMIT, fchmod, fstat, futimens, mkdirat, openat,
};

/// The directory of the last entry and those that it is in, all open: an entry in the same directory, or beside it, costs
/// no walk from the target. Links are never followed.
#[derive(Debug)]
pub(super) struct OpenDirectories {
    root: OwnedFd,
    /// Below the target, from the outermost.
    open: Vec<OpenDirectory>,
}

#[derive(Debug)]
struct OpenDirectory {
    name: OsString,
    fd: OwnedFd,
    /// The attributes to set when the copy leaves it, if the copy has created it.
    attributes: Option<Attributes>,
}

/// The permissions and the time of a directory. Its permissions could prevent its own content.
#[derive(Debug, Clone, Copy)]
pub(super) struct Attributes {
    pub(super) mode: u32,
    pub(super) modified: i64,
}

const DIRECTORY: OFlags = OFlags::DIRECTORY
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

impl OpenDirectories {
    pub(super) fn new(root: OwnedFd) -> Self {
        Self {
            root,
            open: Vec::new(),
        }
    }

    /// Enters a directory below the target, and leaves those that it is not in.
    ///
    /// # Errors
    /// The kernel's, if it is not a directory.
    pub(super) fn enter(&mut self, path: &Path) -> rustix::io::Result<BorrowedFd<'_>> {
        let shared = self.shared_depth(path);
        self.leave(shared);

        for name in path.iter().skip(shared) {
            let fd = openat(
                self.current(),
                name,
                DIRECTORY | OFlags::PATH,
                Mode::empty(),
            )?;
            self.push(name, fd, None);
        }

        Ok(self.current())
    }

    /// Makes a directory in the one that was entered last, and enters it.
    ///
    /// # Errors
    /// The kernel's; `EXIST` if there is a file of that name.
    pub(super) fn create(
        &mut self,
        name: &OsStr,
        attributes: Attributes,
    ) -> rustix::io::Result<()> {
        let mode = Mode::from_raw_mode(attributes.mode | 0o700);
        mkdirat(self.current(), name, mode)?;
        let fd = openat(
            self.current(),
            name,
            DIRECTORY | OFlags::RDONLY,
            Mode::empty(),
        )?;
        self.push(name, fd, Some(attributes));

        Ok(())
    }

    /// Opens a directory below the target, without leaving any.
    ///
    /// # Errors
    /// As [`enter`](Self::enter).
    pub(super) fn open(&self, path: &Path) -> rustix::io::Result<OwnedFd> {
        let shared = self.shared_depth(path);
        let start = match shared {
            0 => self.root.as_fd(),
            depth => self.open[depth - 1].fd.as_fd(),
        };

        let flags = DIRECTORY | OFlags::PATH;
        let mut opened = openat(start, ".", flags, Mode::empty())?;
        for name in path.iter().skip(shared) {
            opened = openat(&opened, name, flags, Mode::empty())?;
        }

        Ok(opened)
    }

    /// Leaves all directories.
    pub(super) fn leave_all(&mut self) {
        self.leave(0);
    }

    /// The directory that was entered last.
    fn current(&self) -> BorrowedFd<'_> {
        self.open.last().map_or(self.root.as_fd(), |d| d.fd.as_fd())
    }

    fn push(&mut self, name: &OsStr, fd: OwnedFd, attributes: Option<Attributes>) {
        self.open.push(OpenDirectory {
            name: name.to_owned(),
            fd,
            attributes,
        });
    }

    /// The number of open directories that a path starts with.
    fn shared_depth(&self, path: &Path) -> usize {
        let pairs = self.open.iter().zip(path);
        pairs.take_while(|(open, name)| open.name == *name).count()
    }

    /// Leaves the directories below this depth, and gives new ones their attributes.
    fn leave(&mut self, depth: usize) {
        while self.open.len() > depth
            && let Some(left) = self.open.pop()
        {
            let Some(attributes) = left.attributes else {
                continue;
            };

            // The owner's permissions were added for the content.
            let added = 0o700 & !attributes.mode;
            if added != 0
                && let Ok(stat) = fstat(&left.fd)
            {
                let _ = fchmod(&left.fd, Mode::from_raw_mode(stat.st_mode & 0o777 & !added));
            }
            set_modified(&left.fd, attributes.modified);
        }
    }
}

/// Sets the time, as far as this host's file system can store it.
pub(super) fn set_modified(file: &impl AsFd, seconds: i64) {
    let times = Timestamps {
        last_access: Timespec {
            tv_sec: 0,
            tv_nsec: UTIME_OMIT,
        },
        last_modification: Timespec {
            tv_sec: seconds,
            tv_nsec: 0,
        },
    };
    let _ = futimens(file, &times);
}
