//! The user's folder on this host. Every path in it is walked from its open directory without following links: anything that a
//! guest has named, nothing outside of the folder is read or written.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Mode, OFlags, mkdirat, openat, readlinkat, renameat, statat,
    symlinkat, unlinkat,
};
use rustix::io::Errno;

use super::tree::{Entry, file_entry, link_entry};

/// The kind of a file in the folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum HostEntry {
    Nothing,
    Known(Entry),
    /// Something that is not compared, such as a link out of the folder.
    Other,
}

/// An open folder.
#[derive(Debug)]
pub(super) struct HostFolder {
    root: OwnedFd,
}

impl HostFolder {
    /// Opens a folder.
    ///
    /// # Errors
    /// It is not a directory that can be read.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self {
            root: openat(CWD, path, flags, Mode::empty())?,
        })
    }

    /// Opens the directory of a path.
    fn parent(&self, path: &Path) -> io::Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut current = self.root.try_clone()?;
        let parent = path.parent().unwrap_or(Path::new(""));
        for component in parent.components() {
            let Component::Normal(name) = component else {
                return Err(io::Error::other("the path leaves the folder"));
            };
            current = openat(&current, name, flags, Mode::empty())?;
        }
        Ok(current)
    }

    /// Returns the kind of the file at a path.
    ///
    /// # Errors
    /// It cannot be read.
    pub(super) fn entry(&self, path: &Path) -> io::Result<HostEntry> {
        let name = file_name(path)?;
        let parent = match self.parent(path) {
            Ok(parent) => parent,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(HostEntry::Nothing),
            // A directory on the way is a link or a file.
            Err(_) => return Ok(HostEntry::Other),
        };
        let stat = match statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => return Ok(HostEntry::Nothing),
            stat => stat?,
        };

        let entry = match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => Ok(Entry::Directory),
            FileType::RegularFile => file_entry(self.open_file(path)?),
            FileType::Symlink => {
                let target = readlinkat(&parent, name, Vec::new())?.into_bytes();
                link_entry(path, PathBuf::from(OsString::from_vec(target)))
            }
            _ => return Ok(HostEntry::Other),
        };
        Ok(entry.map_or(HostEntry::Other, HostEntry::Known))
    }

    /// Opens a file for reading.
    ///
    /// # Errors
    /// There is no file, or it cannot be read.
    pub(super) fn open_file(&self, path: &Path) -> io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let parent = self.parent(path)?;
        let file = openat(&parent, file_name(path)?, flags, Mode::empty())?;
        Ok(File::from(file))
    }

    /// Returns the names in the directory of a path; none if there is no such directory.
    pub(super) fn siblings(&self, path: &Path) -> Vec<OsString> {
        let Ok(parent) = self.parent(path) else {
            return Vec::new();
        };
        let entries = Dir::read_from(&parent).into_iter().flatten().flatten();
        entries
            .map(|entry| OsString::from_vec(entry.file_name().to_bytes().to_vec()))
            .filter(|name| name != "." && name != "..")
            .collect()
    }

    /// Removes a file, a link or an empty directory.
    ///
    /// # Errors
    /// It cannot be removed.
    pub(super) fn remove(&self, path: &Path, is_directory: bool) -> io::Result<()> {
        let flags = match is_directory {
            true => AtFlags::REMOVEDIR,
            false => AtFlags::empty(),
        };
        Ok(unlinkat(self.parent(path)?, file_name(path)?, flags)?)
    }

    /// Creates a directory.
    ///
    /// # Errors
    /// It cannot be created.
    pub(super) fn make_directory(&self, path: &Path) -> io::Result<()> {
        let mode = Mode::from_raw_mode(0o777);
        Ok(mkdirat(self.parent(path)?, file_name(path)?, mode)?)
    }

    /// Creates a link.
    ///
    /// # Errors
    /// It cannot be created, or something exists there.
    pub(super) fn make_link(&self, path: &Path, target: &Path) -> io::Result<()> {
        Ok(symlinkat(target, self.parent(path)?, file_name(path)?)?)
    }

    /// Writes a file, or replaces one: completely, or not at all. A file keeps its permissions; those to execute follow
    /// `is_executable`. A file never gets a set-id bit.
    ///
    /// # Errors
    /// The content cannot be read or written.
    pub(super) fn write_file(
        &self,
        path: &Path,
        mut content: File,
        is_executable: bool,
    ) -> io::Result<()> {
        let (parent, name) = (self.parent(path)?, file_name(path)?);
        let existing = statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW).ok();

        // The umask applies to a new file.
        let temporary = temporary_name()?;
        let mode = Mode::from_raw_mode(if is_executable { 0o777 } else { 0o666 });
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let file = openat(&parent, &temporary, flags, mode)?;

        let written = (|| {
            let mut file = File::from(file);
            io::copy(&mut content, &mut file)?;
            if let Some(existing) = existing {
                let mode = replaced_mode(existing.st_mode, is_executable);
                rustix::fs::fchmod(&file, Mode::from_raw_mode(mode))?;
            }
            file.sync_all()?;
            renameat(&parent, &temporary, &parent, name)?;
            Ok(())
        })();
        if written.is_err() {
            let _ = unlinkat(parent.as_fd(), &temporary, AtFlags::empty());
        }
        written
    }
}

/// Returns the permissions of a file that replaces one.
fn replaced_mode(existing: u32, is_executable: bool) -> u32 {
    let mode = existing & 0o777;
    match is_executable {
        // Who may read may execute.
        true if mode & 0o100 == 0 => mode | ((mode & 0o444) >> 2),
        true => mode,
        false => mode & !0o111,
    }
}

fn file_name(path: &Path) -> io::Result<&OsStr> {
    path.file_name()
        .ok_or_else(|| io::Error::other("the path has no file name"))
}

fn temporary_name() -> io::Result<String> {
    let mut random = [0; 8];
    rustix::rand::getrandom(&mut random[..], rustix::rand::GetRandomFlags::empty())?;
    let number = u64::from_ne_bytes(random);
    Ok(format!(".fumehood-{number:016x}.tmp"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn no_link_on_the_way_is_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (folder, outside) = (dir.path().join("folder"), dir.path().join("outside"));
        std::fs::create_dir(&folder).unwrap();
        std::fs::create_dir(&outside).unwrap();
        std::fs::write(outside.join("secret"), "secret").unwrap();
        symlink(&outside, folder.join("link")).unwrap();
        symlink("../outside/secret", folder.join("file")).unwrap();

        let host = HostFolder::open(&folder).unwrap();
        let content = || File::open(folder.join("link/secret")).unwrap();
        assert!(
            host.write_file(Path::new("link/secret"), content(), false)
                .is_err()
        );
        assert!(host.make_directory(Path::new("link/dir")).is_err());
        assert!(host.make_link(Path::new("link/l"), Path::new("x")).is_err());
        assert!(host.remove(Path::new("link/secret"), false).is_err());
        assert!(
            host.write_file(Path::new("../x"), content(), false)
                .is_err()
        );
        assert!(host.open_file(Path::new("file")).is_err());
        assert_eq!(
            host.entry(Path::new("link/secret")).unwrap(),
            HostEntry::Other
        );
        assert_eq!(host.entry(Path::new("file")).unwrap(), HostEntry::Other);

        // A link at the path itself is replaced, not followed.
        std::fs::write(dir.path().join("new"), "new").unwrap();
        let new = File::open(dir.path().join("new")).unwrap();
        host.write_file(Path::new("file"), new, false).unwrap();
        assert_eq!(std::fs::read_to_string(folder.join("file")).unwrap(), "new");
        assert_eq!(
            std::fs::read_to_string(outside.join("secret")).unwrap(),
            "secret"
        );
        assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 1);
    }

    #[test]
    fn permissions_follow_those_of_the_file_that_is_replaced() {
        assert_eq!(replaced_mode(0o100_640, true), 0o750);
        assert_eq!(replaced_mode(0o104_755, true), 0o755);
        assert_eq!(replaced_mode(0o102_755, false), 0o644);
        assert_eq!(replaced_mode(0o100_600, false), 0o600);
    }
}
