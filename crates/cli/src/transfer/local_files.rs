//! Local files for bytes of a guest: written completely, or not at all.

use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Poll, ready};

use anyhow::{Context, bail};
use tempfile::NamedTempFile;
use tokio::io::AsyncWrite;

/// The maximum size of a downloaded file, in bytes. A sparse file costs the guest nothing. Directories have the same
/// limit.
const MAX_FILE_BYTES: u64 = 1024 * 1024 * 1024;

/// Returns the path of a new file `path`: the path itself, or `name` in it if it is an existing directory.
///
/// # Errors
/// The path is a link to a directory.
pub(super) fn file_destination(path: &Path, name: &OsStr) -> anyhow::Result<PathBuf> {
    refuse_directory_link(path)?;

    let is_dir = fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_dir());
    Ok(if is_dir {
        path.join(name)
    } else {
        path.to_path_buf()
    })
}

/// Refuses a link to a directory. Writing through the link would change another place; replacing it would remove the
/// link.
///
/// # Errors
/// The path is such a link.
pub(super) fn refuse_directory_link(path: &Path) -> anyhow::Result<()> {
    if path.is_symlink() && path.is_dir() {
        let shown = path.display();
        bail!("{shown} is a link to a directory; use {shown}/ to copy into that directory");
    }
    Ok(())
}

/// Checks that the directory of a path exists.
///
/// # Errors
/// The directory does not exist or is not a directory.
pub(super) fn check_parent_directory(path: &Path) -> anyhow::Result<()> {
    let dir = parent(path);
    let shown = dir.display();

    let metadata = fs::metadata(dir)
        .with_context(|| format!("the local directory {shown} does not exist; create it first"))?;
    if !metadata.is_dir() {
        bail!("{shown} is not a directory");
    }
    Ok(())
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    }
}

/// A file that is written next to its destination. Dropping it removes it.
pub(super) struct NewFile {
    file: NamedTempFile,
    destination: PathBuf,
}

impl NewFile {
    /// Creates a file with the permissions of the file that it replaces, or else with `mode`, subject to the umask.
    ///
    /// # Errors
    /// The destination is a directory, or its directory is not writable.
    pub(super) fn create_beside(destination: &Path, mode: u32) -> anyhow::Result<Self> {
        let existing = fs::symlink_metadata(destination).ok();
        if existing.as_ref().is_some_and(fs::Metadata::is_dir) {
            bail!("{} is a directory here", destination.display());
        }

        let dir = parent(destination);
        let file = tempfile::Builder::new()
            .prefix(".fumehood-")
            .permissions(Permissions::from_mode(mode & 0o777 | 0o200))
            .tempfile_in(dir)
            .with_context(|| format!("cannot write in {}", dir.display()))?;

        // Only the permissions of a regular file are kept, not those of a link.
        if let Some(existing) = existing.filter(fs::Metadata::is_file) {
            let mode = existing.permissions().mode() & 0o777;
            file.as_file()
                .set_permissions(Permissions::from_mode(mode))?;
        }

        Ok(Self {
            file,
            destination: destination.to_path_buf(),
        })
    }

    /// Returns a writer for the content, which fails beyond [`MAX_FILE_BYTES`].
    ///
    /// # Errors
    /// The file's descriptor cannot be duplicated.
    pub(super) fn writer(&self) -> anyhow::Result<impl AsyncWrite + Unpin + use<>> {
        let file = tokio::fs::File::from_std(self.file.as_file().try_clone()?);
        Ok(LimitedWriter {
            inner: file,
            remaining: MAX_FILE_BYTES,
        })
    }

    /// Moves the file to its destination. A link there is replaced, not followed.
    ///
    /// # Errors
    /// The destination cannot be replaced.
    pub(super) fn persist(self) -> anyhow::Result<()> {
        self.file
            .persist(&self.destination)
            .map_err(|failure| failure.error)
            .with_context(|| format!("cannot write {}", self.destination.display()))?;
        Ok(())
    }
}

/// A writer that fails after a number of bytes.
struct LimitedWriter<W> {
    inner: W,
    remaining: u64,
}

impl<W: AsyncWrite + Unpin> AsyncWrite for LimitedWriter<W> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if bytes.len() as u64 > self.remaining {
            let message = format!("the file is larger than {MAX_FILE_BYTES} bytes, the maximum");
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::FileTooLarge, message)));
        }

        let written = ready!(Pin::new(&mut self.inner).poll_write(cx, bytes))?;
        self.remaining -= written as u64;
        Poll::Ready(Ok(written))
    }

    fn poll_flush(
        mut self: Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(
        mut self: Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_replaced_and_one_to_a_directory_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (other, link) = (dir.path().join("other"), dir.path().join("link"));
        fs::write(&other, "kept").unwrap();
        std::os::unix::fs::symlink(&other, &link).unwrap();
        let new = NewFile::create_beside(&link, 0o644).unwrap();
        fs::write(new.file.path(), "new").unwrap();
        new.persist().unwrap();
        assert!(!link.is_symlink());
        assert_eq!(fs::read_to_string(&link).unwrap(), "new");
        assert_eq!(fs::read_to_string(&other).unwrap(), "kept");
        let to_dir = dir.path().join("to_dir");
        std::os::unix::fs::symlink(dir.path(), &to_dir).unwrap();
        assert!(file_destination(&to_dir, OsStr::new("x")).is_err());
        let within = file_destination(dir.path(), OsStr::new("x")).unwrap();
        assert_eq!(within, dir.path().join("x"));
    }

    #[test]
    fn an_unfinished_file_is_removed_and_permissions_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let to = dir.path().join("file");
        fs::write(&to, "old").unwrap();
        fs::set_permissions(&to, Permissions::from_mode(0o640)).unwrap();
        drop(NewFile::create_beside(&to, 0o777).unwrap());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        assert_eq!(fs::read_to_string(&to).unwrap(), "old");
        NewFile::create_beside(&to, 0o777)
            .unwrap()
            .persist()
            .unwrap();
        let mode = fs::metadata(&to).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o640);
    }
}
