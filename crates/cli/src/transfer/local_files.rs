//! Files of this machine that a guest's bytes are written to: the whole of them, or nothing.

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

/// The most of one file that a guest can make this command write, in bytes: a file with holes costs the guest
/// nothing. Directories have the same bound.
const FILE_BYTES: u64 = 1024 * 1024 * 1024;

/// Where a file goes that is to become `path`: there, or into the directory that is there.
///
/// # Errors
/// A link to a directory is there.
pub(crate) fn file_at(path: &Path, name: &OsStr) -> anyhow::Result<PathBuf> {
    no_link(path)?;
    let is_dir = fs::symlink_metadata(path).is_ok_and(|found| found.is_dir());
    Ok(match is_dir {
        true => path.join(name),
        false => path.to_path_buf(),
    })
}

/// Refuses a link to a directory: what is written through it would be elsewhere, and without it the link would be
/// gone.
pub(crate) fn no_link(path: &Path) -> anyhow::Result<()> {
    if path.is_symlink() && path.is_dir() {
        let shown = path.display();
        bail!("{shown} is a link to a directory; write {shown}/ to copy into that");
    }
    Ok(())
}

/// Refuses a path that has no directory to be in.
pub(crate) fn has_place(path: &Path) -> anyhow::Result<()> {
    let dir = parent(path);
    let shown = dir.display();
    let found = fs::metadata(dir)
        .with_context(|| format!("there is no directory {shown} here; make it first"))?;
    if !found.is_dir() {
        bail!("{shown} is no directory");
    }
    Ok(())
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    }
}

/// A file that is being written beside the one that it will be. Dropping it removes it.
pub(crate) struct NewFile {
    file: NamedTempFile,
    to: PathBuf,
}

impl NewFile {
    /// With the permissions of the file that it replaces, or else these, as far as the user's mask lets them be.
    pub(crate) fn beside(to: &Path, mode: u32) -> anyhow::Result<Self> {
        let found = fs::symlink_metadata(to).ok();
        if found.as_ref().is_some_and(fs::Metadata::is_dir) {
            bail!("{} is a directory here", to.display());
        }
        let dir = parent(to);
        let file = tempfile::Builder::new()
            .prefix(".fumehood-")
            .permissions(Permissions::from_mode(mode & 0o777 | 0o200))
            .tempfile_in(dir)
            .with_context(|| format!("nothing can be written in {}", dir.display()))?;
        if let Some(found) = found.filter(fs::Metadata::is_file) {
            let mode = found.permissions().mode() & 0o777;
            file.as_file()
                .set_permissions(Permissions::from_mode(mode))?;
        }
        Ok(Self {
            file,
            to: to.to_path_buf(),
        })
    }

    /// Something to write its bytes to.
    pub(crate) fn writer(&self) -> anyhow::Result<impl AsyncWrite + Unpin + use<>> {
        let file = tokio::fs::File::from_std(self.file.as_file().try_clone()?);
        Ok(Bounded {
            to: file,
            left: FILE_BYTES,
        })
    }

    /// Puts it in its place. A link there is replaced, not followed.
    pub(crate) fn put(self) -> anyhow::Result<()> {
        let shown = self.to.display().to_string();
        self.file
            .persist(&self.to)
            .map_err(|failed| failed.error)
            .with_context(|| format!("{shown} cannot be written"))?;
        Ok(())
    }
}

/// Takes so many bytes and no more.
struct Bounded<W> {
    to: W,
    left: u64,
}

impl<W: AsyncWrite + Unpin> AsyncWrite for Bounded<W> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if bytes.len() as u64 > self.left {
            let message = format!("more than {FILE_BYTES} bytes, the most that is copied");
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::FileTooLarge, message)));
        }
        let written = ready!(Pin::new(&mut self.to).poll_write(cx, bytes))?;
        self.left -= written as u64;
        Poll::Ready(Ok(written))
    }

    fn poll_flush(
        mut self: Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.to).poll_flush(cx)
    }

    fn poll_shutdown(
        mut self: Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.to).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_replaced_and_one_to_a_directory_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (other, link) = (dir.path().join("other"), dir.path().join("link"));
        fs::write(&other, "kept").unwrap();
        std::os::unix::fs::symlink(&other, &link).unwrap();
        let new = NewFile::beside(&link, 0o644).unwrap();
        fs::write(new.file.path(), "new").unwrap();
        new.put().unwrap();
        assert!(!link.is_symlink());
        assert_eq!(fs::read_to_string(&link).unwrap(), "new");
        assert_eq!(fs::read_to_string(&other).unwrap(), "kept");
        let to_dir = dir.path().join("to_dir");
        std::os::unix::fs::symlink(dir.path(), &to_dir).unwrap();
        assert!(file_at(&to_dir, OsStr::new("x")).is_err());
        let within = file_at(dir.path(), OsStr::new("x")).unwrap();
        assert_eq!(within, dir.path().join("x"));
    }

    #[test]
    fn what_is_not_put_is_gone_and_permissions_stay() {
        let dir = tempfile::tempdir().unwrap();
        let to = dir.path().join("file");
        fs::write(&to, "old").unwrap();
        fs::set_permissions(&to, Permissions::from_mode(0o640)).unwrap();
        drop(NewFile::beside(&to, 0o777).unwrap());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        assert_eq!(fs::read_to_string(&to).unwrap(), "old");
        NewFile::beside(&to, 0o777).unwrap().put().unwrap();
        let mode = fs::metadata(&to).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o640);
    }
}
