//! Unpacks a tar stream from a guest. Every path is walked from open directories below the target without following
//! links, so that nothing is written elsewhere, for any stream and any content of the target.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Component, Path, PathBuf};

use bytes::Bytes;
use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, Stat, linkat, openat, readlinkat, statat, symlinkat,
    unlinkat,
};
use rustix::io::Errno;
use tar::EntryType;
use tokio::sync::mpsc;

use super::open_directories::{Attributes, OpenDirectories, set_modified};
use super::stream::{ChunkReader, MAX_PATH_BYTES, MAX_TREE_BYTES, Part, invalid};
use super::tar_reader::{TarEntry, TarReader};
use crate::run::SkippedFiles;

/// Maximum number of entries in a tree from a guest.
const MAX_TREE_ENTRIES: u64 = 100_000;
/// Maximum number of directories that a file is in, below the target. Each of them is open meanwhile.
pub(super) const MAX_DEPTH: usize = 128;
/// The permissions that a guest may set on this host, where the umask allows them: none to write for anyone but the
/// owner, since services often run without a umask.
const ALLOWED_MODE: u32 = 0o755;
/// Maximum number of special files that are remembered, for hard links to them.
const MAX_SPECIAL_FILES: usize = 1000;
/// Size of one read, in bytes.
const PIECE_BYTES: usize = 64 * 1024;

/// Unpacks a stream into the directory `to`, which is created if it does not exist. Returns the files that were skipped.
///
/// # Errors
/// The stream is invalid or too large, the target cannot be created, or this host cannot store any more files.
pub(crate) fn unpack(to: &Path, mut from: mpsc::Receiver<Bytes>) -> io::Result<SkippedFiles> {
    // A tar that does not start leaves no directory.
    let Some(first) = from.blocking_recv() else {
        return Err(io::ErrorKind::UnexpectedEof.into());
    };

    std::fs::create_dir_all(to)?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = openat(CWD, to, flags, Mode::empty())?;
    let mut unpacker = Unpacker::new(root);

    let mut tar = TarReader::new(ChunkReader::new(first, from));
    let mut count = 0;
    while let Some(entry) = tar.next()? {
        count += 1;
        if count > MAX_TREE_ENTRIES {
            return Err(invalid(&format!("more than {MAX_TREE_ENTRIES} entries")));
        }

        unpacker.add(&entry, &mut tar)?;
    }

    unpacker.directories.leave_all();
    Ok(unpacker.skipped)
}

/// Why an entry was not unpacked, without an error of the whole copy.
enum Skip {
    /// It is of a kind that is never copied.
    Kind(String),
    /// Its content is lost.
    Failed(String),
}

/// The end of one entry that was not unpacked.
enum EntryError {
    Skip(Skip),
    /// The whole copy fails.
    Fatal(io::Error),
}

impl From<Errno> for EntryError {
    fn from(errno: Errno) -> Self {
        match errno {
            // The next entry would fail as well.
            Errno::NOSPC
            | Errno::DQUOT
            | Errno::ROFS
            | Errno::IO
            | Errno::NFILE
            | Errno::MFILE
            | Errno::NOMEM => Self::Fatal(errno.into()),
            Errno::NOTDIR | Errno::LOOP => {
                Self::failed("its directory on this host is a link or a file")
            }
            errno => Self::failed(&io::Error::from(errno).to_string()),
        }
    }
}

impl From<io::Error> for EntryError {
    fn from(error: io::Error) -> Self {
        match error.raw_os_error() {
            Some(errno) => Errno::from_raw_os_error(errno).into(),
            None => Self::Fatal(error),
        }
    }
}

impl EntryError {
    fn failed(reason: &str) -> Self {
        Self::Skip(Skip::Failed(reason.to_owned()))
    }

    fn kind(reason: &str) -> Self {
        Self::Skip(Skip::Kind(reason.to_owned()))
    }
}

struct Unpacker {
    directories: OpenDirectories,
    skipped: SkippedFiles,
    /// Device and inode of each file that this copy has created: only they get further names.
    created: HashSet<(u64, u64)>,
    /// The special files that were skipped: hard links to them are skipped as well.
    special_files: HashSet<PathBuf>,
    /// A buffer of [`PIECE_BYTES`].
    piece: Vec<u8>,
    /// The sizes that files may still have together, holes included.
    left: u64,
}

impl Unpacker {
    fn new(root: OwnedFd) -> Self {
        Self {
            directories: OpenDirectories::new(root),
            skipped: SkippedFiles::default(),
            created: HashSet::new(),
            special_files: HashSet::new(),
            piece: vec![0; PIECE_BYTES],
            left: MAX_TREE_BYTES,
        }
    }

    /// Unpacks an entry, or records why it was skipped.
    ///
    /// # Errors
    /// The whole copy fails.
    fn add(&mut self, entry: &TarEntry, tar: &mut TarReader<ChunkReader>) -> io::Result<()> {
        let shown = &entry.path;
        let added = match relative(shown) {
            _ if shown.len() > MAX_PATH_BYTES => Err(EntryError::failed("its path is too long")),
            // The directory itself.
            Some(path) if path.as_os_str().is_empty() => return Ok(()),
            Some(path) if path.iter().count() > MAX_DEPTH + 1 => {
                let reason = format!("it is in more than {MAX_DEPTH} directories");
                Err(EntryError::failed(&reason))
            }
            Some(path) => self.add_at(&path, entry, tar),
            None => Err(EntryError::kind("its path leaves the directory")),
        };

        let shown = shown.strip_prefix(b"./").unwrap_or(shown);
        match added {
            Ok(()) => {}
            Err(EntryError::Skip(Skip::Kind(reason))) => self.skipped.add_uncopied(shown, &reason),
            Err(EntryError::Skip(Skip::Failed(reason))) => self.skipped.add_failed(shown, &reason),
            Err(EntryError::Fatal(error)) => return Err(error),
        }
        Ok(())
    }

    fn add_at(
        &mut self,
        path: &Path,
        entry: &TarEntry,
        tar: &mut TarReader<ChunkReader>,
    ) -> Result<(), EntryError> {
        match entry.kind {
            EntryType::Directory => self.add_directory(path, entry),
            _ if entry.has_unknown_form => Err(EntryError::failed(
                "a sparse file in a form that is not supported",
            )),
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                self.add_file(path, entry, tar)
            }
            EntryType::Symlink => self.add_symlink(path, entry),
            EntryType::Link => self.add_hard_link(path, entry),
            EntryType::Fifo => Err(self.special_file(path, "a FIFO")),
            EntryType::Char | EntryType::Block => Err(self.special_file(path, "a device")),
            _ => Err(self.special_file(path, "a file of an unknown kind")),
        }
    }

    fn add_directory(&mut self, path: &Path, entry: &TarEntry) -> Result<(), EntryError> {
        let (parent, name) = split(path);
        let attributes = Attributes {
            mode: entry.mode & ALLOWED_MODE,
            modified: entry.modified,
        };

        self.directories.enter(parent)?;
        match self.directories.create(name, attributes) {
            Ok(()) => Ok(()),
            // A directory that exists keeps its permissions.
            Err(Errno::EXIST) => {
                let parent = self.directories.enter(parent)?;
                let existing = statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
                match FileType::from_raw_mode(existing.st_mode) {
                    FileType::Directory => Ok(()),
                    _ => Err(EntryError::failed(
                        "a file of that name exists on this host",
                    )),
                }
            }
            Err(errno) => Err(errno.into()),
        }
    }

    fn add_file(
        &mut self,
        path: &Path,
        entry: &TarEntry,
        tar: &mut TarReader<ChunkReader>,
    ) -> Result<(), EntryError> {
        if entry.size > self.left {
            let reason = format!("the directory has more than {MAX_TREE_BYTES} bytes with it");
            return Err(EntryError::failed(&reason));
        }
        self.left -= entry.size;

        let (parent, name) = split(path);
        let parent = self.directories.enter(parent)?;
        let mode = Mode::from_raw_mode(entry.mode & ALLOWED_MODE);
        let file = create(parent, name, mode)?;

        // An incomplete file is removed.
        let written = copy_content(entry, tar, &file, &mut self.piece);
        if let Err(error) = written {
            let _ = unlinkat(parent, name, AtFlags::empty());
            return Err(error);
        }

        set_modified(&file, entry.modified);
        let metadata = file.metadata()?;
        self.created.insert((metadata.dev(), metadata.ino()));
        Ok(())
    }

    fn add_symlink(&mut self, path: &Path, entry: &TarEntry) -> Result<(), EntryError> {
        let target = Path::new(OsStr::from_bytes(&entry.link));
        if !stays_inside(path, target) {
            let shown = target.display();
            let reason = match target.is_absolute() {
                true => format!("an absolute link (to {shown})"),
                false => format!("a link out of the directory (to {shown})"),
            };
            return Err(self.special_file(path, &reason));
        }

        let (parent, name) = split(path);
        let parent = self.directories.enter(parent)?;
        remove_existing(parent, name)?;
        symlinkat(target, parent, name)?;

        let created = statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
        self.created.insert(identity(&created));
        Ok(())
    }

    /// Gives a file of this copy another name, or copies it if this host's file system has no hard links.
    fn add_hard_link(&mut self, path: &Path, entry: &TarEntry) -> Result<(), EntryError> {
        let target = relative(&entry.link).filter(|target| *target != path);
        let Some(target) = target else {
            return Err(EntryError::kind("a hard link out of the directory"));
        };
        if self.special_files.contains(&target) {
            return Err(self.special_file(path, "a hard link to a file that is not copied"));
        }

        // Only a file of this copy: the target may contain others of the user.
        let missing = || EntryError::failed("a hard link to a file that was not copied");
        if target.iter().count() > MAX_DEPTH + 1 {
            return Err(missing());
        }
        let (target_parent, target_name) = split(&target);
        let target_parent = self.directories.open(target_parent)?;
        let existing = statat(&target_parent, target_name, AtFlags::SYMLINK_NOFOLLOW);
        let existing = existing.map_err(|_| missing())?;
        if !self.created.contains(&identity(&existing)) {
            return Err(missing());
        }

        let (parent, name) = split(path);
        let parent = self.directories.enter(parent)?;
        remove_existing(parent, name)?;
        match linkat(&target_parent, target_name, parent, name, AtFlags::empty()) {
            Ok(()) => Ok(()),
            Err(Errno::PERM | Errno::MLINK | Errno::XDEV | Errno::OPNOTSUPP) => {
                let from = (target_parent.as_fd(), target_name);
                copy_existing(from, &existing, (parent, name), &mut self.left)
            }
            Err(errno) => Err(errno.into()),
        }
    }

    /// Remembers a file of a kind that is never copied.
    fn special_file(&mut self, path: &Path, reason: &str) -> EntryError {
        if self.special_files.len() < MAX_SPECIAL_FILES {
            self.special_files.insert(path.to_owned());
        }
        EntryError::kind(reason)
    }
}

/// Copies a file or link that this copy has created. `left`: the sizes that files may still have together.
fn copy_existing(
    (from, from_name): (BorrowedFd<'_>, &OsStr),
    existing: &Stat,
    (to, to_name): (BorrowedFd<'_>, &OsStr),
    left: &mut u64,
) -> Result<(), EntryError> {
    if FileType::from_raw_mode(existing.st_mode) == FileType::Symlink {
        let target = readlinkat(from, from_name, Vec::new())?;
        symlinkat(target, to, to_name)?;
        return Ok(());
    }

    let size = u64::try_from(existing.st_size).unwrap_or(u64::MAX);
    if size > *left {
        let reason = format!("the directory has more than {MAX_TREE_BYTES} bytes with it");
        return Err(EntryError::failed(&reason));
    }
    *left -= size;

    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut source = File::from(openat(from, from_name, flags, Mode::empty())?);
    let mode = Mode::from_raw_mode(existing.st_mode & ALLOWED_MODE);
    let mut copy = create(to, to_name, mode)?;
    io::copy(&mut source, &mut copy)?;
    set_modified(&copy, existing.st_mtime);
    Ok(())
}

/// Splits a path into its directory and its last name.
fn split(path: &Path) -> (&Path, &OsStr) {
    let parent = path.parent().unwrap_or(Path::new(""));
    (parent, path.file_name().unwrap_or_default())
}

/// Returns a path relative to the target directory; none if it is absolute or goes up.
fn relative(path: &[u8]) -> Option<PathBuf> {
    let mut relative = PathBuf::new();
    for component in Path::new(OsStr::from_bytes(path)).components() {
        match component {
            Component::Normal(name) => relative.push(name),
            Component::CurDir => {}
            _ => return None,
        }
    }
    Some(relative)
}

/// Returns whether a link at `path` points below the target directory: first up from its own directory, at most to the
/// target directory, then down. Its own directory is a real one, since paths are walked without following links.
#[must_use]
pub fn stays_inside(path: &Path, target: &Path) -> bool {
    let mut depth = path.components().count().saturating_sub(1);
    let mut goes_down = false;

    for step in target.components() {
        match step {
            Component::Normal(_) => goes_down = true,
            Component::CurDir => {}
            // Going up after going down could leave the directory through another link.
            Component::ParentDir if depth > 0 && !goes_down => depth -= 1,
            _ => return false,
        }
    }

    !target.as_os_str().is_empty()
}

/// Creates a file in a directory. An existing file or link of that name is replaced, not followed.
fn create(parent: BorrowedFd<'_>, name: &OsStr, mode: Mode) -> Result<File, EntryError> {
    remove_existing(parent, name)?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(File::from(openat(parent, name, flags, mode)?))
}

fn remove_existing(parent: BorrowedFd<'_>, name: &OsStr) -> Result<(), EntryError> {
    match unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(Errno::ISDIR) => Err(EntryError::failed(
            "a directory of that name exists on this host",
        )),
        Err(errno) => Err(errno.into()),
    }
}

/// Copies the content of an entry. The gaps between the parts of a sparse file become holes.
fn copy_content(
    entry: &TarEntry,
    tar: &mut TarReader<ChunkReader>,
    file: &File,
    piece: &mut [u8],
) -> Result<(), EntryError> {
    let whole = [Part {
        offset: 0,
        len: entry.size,
    }];
    let parts = entry.parts.as_deref().unwrap_or(&whole);

    for part in parts {
        let end = part.offset + part.len;
        let mut position = part.offset;
        while position < end {
            let rest = usize::try_from(end - position).unwrap_or(usize::MAX);
            let content = &mut piece[..rest.min(PIECE_BYTES)];
            tar.read_content(content).map_err(EntryError::Fatal)?;
            file.write_all_at(content, position)?;
            position += content.len() as u64;
        }
    }

    if entry.parts.is_some() {
        file.set_len(entry.size)?;
    }
    Ok(())
}

fn identity(stat: &Stat) -> (u64, u64) {
    (stat.st_dev, stat.st_ino)
}
