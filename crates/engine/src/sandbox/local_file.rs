//! Files of this host that are written from a guest: they appear complete or not at all.

use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use crate::error::{Error, ErrorKind};
use crate::run::parent;

/// Returns where a file goes that is written to `path`: there, or into the directory at that path.
///
/// # Errors
/// Returns [`ErrorKind::Invalid`] for a link to a directory, and for a file without a name.
pub(super) fn file_target(path: &Path, name: Option<&OsStr>) -> Result<PathBuf, Error> {
    reject_directory_link(path)?;
    let is_dir = fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_dir());

    match name {
        _ if !is_dir => Ok(path.to_path_buf()),
        Some(name) => Ok(path.join(name)),
        None => {
            let message = format!("{} is a directory; name the file in it", path.display());
            Err(Error::new(ErrorKind::Invalid, message))
        }
    }
}

/// Rejects a link to a directory. Following it would write somewhere else; not following it would replace the link.
///
/// # Errors
/// Returns [`ErrorKind::Invalid`].
pub(super) fn reject_directory_link(path: &Path) -> Result<(), Error> {
    if path.is_symlink() && path.is_dir() {
        let shown = path.display();
        let message =
            format!("{shown} is a link to a directory; write {shown}/ to copy into that directory");
        return Err(Error::new(ErrorKind::Invalid, message));
    }

    Ok(())
}

/// A file that is being written beside its final path. Dropping it removes it.
pub(super) struct NewFile {
    file: NamedTempFile,
    target: PathBuf,
}

impl NewFile {
    /// Creates the file, with the permissions of the file that it replaces, or else with these as far as the user's
    /// umask allows them; only the owner may write.
    ///
    /// # Errors
    /// Returns [`ErrorKind::Invalid`] if a directory is at the path, and [`ErrorKind::Host`].
    pub(super) fn beside(target: &Path, mode: u32) -> Result<Self, Error> {
        let existing = fs::symlink_metadata(target).ok();
        if existing.as_ref().is_some_and(fs::Metadata::is_dir) {
            let message = format!("{} is a directory on this host", target.display());
            return Err(Error::new(ErrorKind::Invalid, message));
        }

        // The same directory, so that the rename stays within one file system.
        let directory = parent(target);
        let file = tempfile::Builder::new()
            .prefix(".fumehood-")
            .permissions(Permissions::from_mode(mode & 0o755 | 0o200))
            .tempfile_in(directory)
            .map_err(|e| unwritable(directory, e))?;

        if let Some(existing) = existing.filter(fs::Metadata::is_file) {
            let mode = existing.permissions().mode() & 0o777;
            let set = file.as_file().set_permissions(Permissions::from_mode(mode));
            set.map_err(|e| unwritable(target, e))?;
        }

        Ok(Self {
            file,
            target: target.to_path_buf(),
        })
    }

    /// Returns a writer for the content.
    ///
    /// # Errors
    /// Returns [`ErrorKind::Host`].
    pub(super) fn writer(&self) -> Result<tokio::fs::File, Error> {
        let file = self.file.as_file().try_clone();
        file.map(tokio::fs::File::from_std)
            .map_err(|e| unwritable(&self.target, e))
    }

    /// Moves the file to its final path. A link there is replaced, not followed.
    ///
    /// # Errors
    /// Returns [`ErrorKind::Host`].
    pub(super) fn persist(self) -> Result<(), Error> {
        let persisted = self.file.persist(&self.target);
        persisted
            .map(drop)
            .map_err(|failure| unwritable(&self.target, failure.error))
    }
}

fn unwritable(path: &Path, error: io::Error) -> Error {
    let message = format!("cannot write to {}: {error}", path.display());
    Error::new(ErrorKind::Host, message).caused_by(error)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn put(target: &Path, mode: u32) {
        let new = NewFile::beside(target, mode).unwrap();
        new.file.as_file().write_all(b"new").unwrap();
        new.persist().unwrap();
    }

    #[test]
    fn a_new_file_has_its_mode_and_a_replaced_one_keeps_its_own() {
        let directory = tempfile::tempdir().unwrap();
        let target = directory.path().join("file");
        put(&target, 0o700);
        assert_eq!(
            fs::metadata(&target).unwrap().permissions().mode() & 0o777,
            0o700
        );

        fs::set_permissions(&target, Permissions::from_mode(0o640)).unwrap();
        put(&target, 0o777);
        assert_eq!(
            fs::metadata(&target).unwrap().permissions().mode() & 0o777,
            0o640
        );

        assert_eq!(fs::read(&target).unwrap(), b"new");
    }

    #[test]
    fn a_link_is_replaced_and_not_followed() {
        let directory = tempfile::tempdir().unwrap();
        let (other, link) = (
            directory.path().join("other"),
            directory.path().join("link"),
        );
        fs::write(&other, "old").unwrap();
        std::os::unix::fs::symlink(&other, &link).unwrap();
        put(&link, 0o644);
        assert_eq!(fs::read(&other).unwrap(), b"old");
        assert!(!link.is_symlink());
    }

    #[test]
    fn a_file_that_is_not_finished_leaves_nothing() {
        let directory = tempfile::tempdir().unwrap();
        drop(NewFile::beside(&directory.path().join("file"), 0o644).unwrap());
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[test]
    fn directories_and_links_to_them_are_told_apart() {
        let directory = tempfile::tempdir().unwrap();
        let link = directory.path().join("link");
        std::os::unix::fs::symlink(directory.path(), &link).unwrap();
        let name = Some(OsStr::new("file"));
        assert_eq!(
            file_target(directory.path(), name).unwrap(),
            directory.path().join("file")
        );

        assert_eq!(
            file_target(directory.path(), None).unwrap_err().kind(),
            ErrorKind::Invalid
        );

        assert_eq!(
            file_target(&link, name).unwrap_err().kind(),
            ErrorKind::Invalid
        );

        assert!(NewFile::beside(directory.path(), 0o644).is_err());
    }
}
