use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A file that the processes of an image map.
#[derive(Debug, Clone)]
pub struct SavedFile {
    pub(super) file: Arc<OwnedFd>,
    /// The path of a program or library; none for a file that belongs to an image.
    pub path: Option<PathBuf>,
    pub(super) inode: u64,
    pub(super) device: (u32, u32),
}

impl SavedFile {
    /// Opens a file that processes map.
    ///
    /// # Errors
    /// The error of the operating system.
    pub fn open(path: &Path) -> io::Result<Self> {
        Self::new(File::open(path)?, Some(path.to_path_buf()))
    }

    /// Takes a file; `path` is none for a file that belongs to an image.
    ///
    /// # Errors
    /// The error of the operating system.
    pub fn new(file: File, path: Option<PathBuf>) -> io::Result<Self> {
        let metadata = file.metadata()?;
        let device = metadata.dev();
        Ok(Self {
            inode: metadata.ino(),
            device: (rustix::fs::major(device), rustix::fs::minor(device)),
            file: Arc::new(OwnedFd::from(file)),
            path,
        })
    }

    /// Returns whether this is the same file as another one.
    #[must_use]
    pub fn is_same(&self, other: &File) -> bool {
        let device = |device| (rustix::fs::major(device), rustix::fs::minor(device));
        other.metadata().is_ok_and(|metadata| {
            (metadata.ino(), device(metadata.dev())) == (self.inode, self.device)
        })
    }

    /// Returns the path by which the file can be opened again, if it has one.
    #[must_use]
    pub fn find_path(&self) -> Option<PathBuf> {
        if let Some(path) = &self.path {
            return Some(path.clone());
        }
        let link = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        let path = std::fs::read_link(link).ok()?;
        // A file that was removed, or that is in memory, has a name that leads nowhere or to another file.
        let found = File::open(&path).ok()?;
        self.is_same(&found).then_some(path)
    }

    /// Returns a duplicate of its descriptor.
    ///
    /// # Errors
    /// The error of the operating system.
    pub fn try_clone(&self) -> io::Result<File> {
        self.file.try_clone().map(File::from)
    }
}
