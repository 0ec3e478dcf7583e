//! Unpacks a tar stream from a guest. Every path is walked from the open target directory without following links, so
//! that nothing is written elsewhere, whatever the stream contains and whatever is in the target already.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Component, Path, PathBuf};

use bytes::Bytes;
use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, Stat, Timespec, Timestamps, UTIME_OMIT, fchmod, futimens,
    linkat, mkdirat, openat, readlinkat, statat, symlinkat, unlinkat,
};
use rustix::io::Errno;
use tar::{Archive, Entry, EntryType};
use tokio::sync::mpsc;

use super::stream::{ChunkReader, MAX_HEADER_BYTES, MAX_TREE_BYTES, invalid};
use crate::run::SkippedFiles;

/// Maximum number of entries in a tree from a guest.
const MAX_TREE_ENTRIES: u64 = 100_000;
/// Maximum number of special files that are remembered, for hard links to them.
const MAX_SPECIAL_FILES: usize = 1000;
/// Size of one read, in bytes. Holes of sparse files are found in pieces of this size.
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

    let from = ChunkReader::new(first, from);
    let budget = from.budget();
    let mut archive = Archive::new(from);
    let mut entries = archive.entries()?;
    let (mut count, mut unread) = (0, 0);

    loop {
        // Headers are held in memory, contents are not. The rest of a skipped content comes before the next header.
        budget.set(MAX_HEADER_BYTES.saturating_add(unread));
        let Some(entry) = entries.next() else { break };
        let mut entry = entry?;
        budget.set(MAX_TREE_BYTES);
        unread = entry.header().entry_size()?;

        count += 1;
        if count > MAX_TREE_ENTRIES {
            return Err(invalid(&format!("more than {MAX_TREE_ENTRIES} entries")));
        }

        unpacker.add(&mut entry)?;
    }

    unpacker.leave_directories(Path::new(""));
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

/// A directory that this copy has created, and that the current entry is in. Its final permissions could prevent its
/// own content, so it gets them when the copy leaves it.
struct NewDirectory {
    path: PathBuf,
    mode: u32,
    modified: i64,
}

struct Unpacker {
    root: OwnedFd,
    skipped: SkippedFiles,
    /// Device and inode of each file that this copy has created: only they get further names.
    created: HashSet<(u64, u64)>,
    /// The special files that were skipped: hard links to them are skipped as well.
    special_files: HashSet<PathBuf>,
    /// The directories that the current entry is in, from the outermost.
    directories: Vec<NewDirectory>,
    /// The directory of the last entry.
    last_parent: Option<(PathBuf, OwnedFd)>,
    /// The sizes that files may still have together, holes included.
    left: u64,
}

impl Unpacker {
    fn new(root: OwnedFd) -> Self {
        Self {
            root,
            skipped: SkippedFiles::default(),
            created: HashSet::new(),
            special_files: HashSet::new(),
            directories: Vec::new(),
            last_parent: None,
            left: MAX_TREE_BYTES,
        }
    }

    /// Unpacks an entry, or records why it was skipped.
    ///
    /// # Errors
    /// The whole copy fails.
    fn add(&mut self, entry: &mut Entry<'_, impl Read>) -> io::Result<()> {
        let shown = entry.path_bytes().into_owned();
        let added = match relative(&shown) {
            // The directory itself.
            Some(path) if path.as_os_str().is_empty() => return Ok(()),
            Some(path) => self.add_at(&path, entry),
            None => Err(EntryError::kind("its path leaves the directory")),
        };

        let shown = shown.strip_prefix(b"./").unwrap_or(&shown);
        match added {
            Ok(()) => {}
            Err(EntryError::Skip(Skip::Kind(reason))) => self.skipped.add_uncopied(shown, &reason),
            Err(EntryError::Skip(Skip::Failed(reason))) => self.skipped.add_failed(shown, &reason),
            Err(EntryError::Fatal(error)) => return Err(error),
        }
        Ok(())
    }

    fn add_at(&mut self, path: &Path, entry: &mut Entry<'_, impl Read>) -> Result<(), EntryError> {
        self.leave_directories(path);

        match entry.header().entry_type() {
            EntryType::Directory => self.add_directory(path, entry),
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                self.add_file(path, entry)
            }
            EntryType::Symlink => self.add_symlink(path, entry),
            EntryType::Link => self.add_hard_link(path, entry),
            EntryType::Fifo => Err(self.special_file(path, "a FIFO")),
            EntryType::Char | EntryType::Block => Err(self.special_file(path, "a device")),
            _ => Err(self.special_file(path, "a file of an unknown kind")),
        }
    }

    fn add_directory(
        &mut self,
        path: &Path,
        entry: &Entry<'_, impl Read>,
    ) -> Result<(), EntryError> {
        let (parent, name) = self.parent(path)?;
        let mode = entry.header().mode()? & 0o777;

        match mkdirat(&parent, name, Mode::from_raw_mode(mode | 0o700)) {
            Ok(()) => self.directories.push(NewDirectory {
                path: path.to_owned(),
                mode,
                modified: modified(entry),
            }),
            // A directory that exists keeps its permissions.
            Err(Errno::EXIST) => {
                let existing = statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
                if FileType::from_raw_mode(existing.st_mode) != FileType::Directory {
                    return Err(EntryError::failed(
                        "a file of that name exists on this host",
                    ));
                }
            }
            Err(errno) => return Err(errno.into()),
        }

        Ok(())
    }

    fn add_file(
        &mut self,
        path: &Path,
        entry: &mut Entry<'_, impl Read>,
    ) -> Result<(), EntryError> {
        // For a sparse file, this is the size with its holes.
        let size = entry.size();
        let is_sparse = entry.header().entry_type() == EntryType::GNUSparse;
        if is_sparse && size > self.left {
            let reason = format!("the directory has more than {MAX_TREE_BYTES} bytes with it");
            return Err(EntryError::failed(&reason));
        }
        self.left = self.left.saturating_sub(size);

        let (parent, name) = self.parent(path)?;
        let mode = Mode::from_raw_mode(entry.header().mode()? & 0o777);
        let file = create(&parent, name, mode)?;

        // An incomplete file is removed.
        let written = copy_content(entry, &file, size, is_sparse);
        if let Err(error) = written {
            let _ = unlinkat(&parent, name, AtFlags::empty());
            return Err(error);
        }

        set_modified(&file, modified(entry));
        let metadata = file.metadata()?;
        self.created.insert((metadata.dev(), metadata.ino()));
        Ok(())
    }

    fn add_symlink(&mut self, path: &Path, entry: &Entry<'_, impl Read>) -> Result<(), EntryError> {
        let target = entry.link_name_bytes().unwrap_or_default();
        let target = Path::new(OsStr::from_bytes(&target));
        if !stays_inside(path, target) {
            let shown = target.display();
            let reason = match target.is_absolute() {
                true => format!("an absolute link (to {shown})"),
                false => format!("a link out of the directory (to {shown})"),
            };
            return Err(self.special_file(path, &reason));
        }

        let (parent, name) = self.parent(path)?;
        remove_existing(&parent, name)?;
        symlinkat(target, &parent, name)?;

        let created = statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
        self.created.insert(identity(&created));
        Ok(())
    }

    /// Gives a file of this copy another name, or copies it if this host's file system has no hard links.
    fn add_hard_link(
        &mut self,
        path: &Path,
        entry: &Entry<'_, impl Read>,
    ) -> Result<(), EntryError> {
        let target = entry.link_name_bytes().unwrap_or_default();
        let target = relative(&target).filter(|target| *target != path);
        let Some(target) = target else {
            return Err(EntryError::kind("a hard link out of the directory"));
        };
        if self.special_files.contains(&target) {
            return Err(self.special_file(path, "a hard link to a file that is not copied"));
        }

        // Only a file of this copy: the target may contain others of the user.
        let missing = || EntryError::failed("a hard link to a file that was not copied");
        let (target_parent, target_name) = self.parent(&target)?;
        let existing = statat(&target_parent, target_name, AtFlags::SYMLINK_NOFOLLOW);
        let existing = existing.map_err(|_| missing())?;
        if !self.created.contains(&identity(&existing)) {
            return Err(missing());
        }

        let (parent, name) = self.parent(path)?;
        remove_existing(&parent, name)?;
        let linked = linkat(&target_parent, target_name, &parent, name, AtFlags::empty());
        match linked {
            Ok(()) => Ok(()),
            Err(Errno::PERM | Errno::MLINK | Errno::XDEV | Errno::OPNOTSUPP) => {
                self.copy_existing((&target_parent, target_name), &existing, (&parent, name))
            }
            Err(errno) => Err(errno.into()),
        }
    }

    /// Copies a file or link that this copy has created.
    fn copy_existing(
        &mut self,
        (from, from_name): (&OwnedFd, &OsStr),
        existing: &Stat,
        (to, to_name): (&OwnedFd, &OsStr),
    ) -> Result<(), EntryError> {
        if FileType::from_raw_mode(existing.st_mode) == FileType::Symlink {
            let target = readlinkat(from, from_name, Vec::new())?;
            symlinkat(target, to, to_name)?;
            return Ok(());
        }

        let size = u64::try_from(existing.st_size).unwrap_or(u64::MAX);
        if size > self.left {
            let reason = format!("the directory has more than {MAX_TREE_BYTES} bytes with it");
            return Err(EntryError::failed(&reason));
        }
        self.left -= size;

        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut source = File::from(openat(from, from_name, flags, Mode::empty())?);
        let mode = Mode::from_raw_mode(existing.st_mode & 0o777);
        let mut copy = create(to, to_name, mode)?;
        io::copy(&mut source, &mut copy)?;
        set_modified(&copy, existing.st_mtime);
        Ok(())
    }

    /// Remembers a file of a kind that is never copied.
    fn special_file(&mut self, path: &Path, reason: &str) -> EntryError {
        if self.special_files.len() < MAX_SPECIAL_FILES {
            self.special_files.insert(path.to_owned());
        }
        EntryError::kind(reason)
    }

    /// Opens the directory of a path below the target, without following links. Returns it with the last name.
    fn parent<'a>(&mut self, path: &'a Path) -> Result<(OwnedFd, &'a OsStr), EntryError> {
        let name = path.file_name().unwrap_or_default();
        let parent = path.parent().unwrap_or(Path::new(""));

        // Most entries are in the directory of the one before.
        match &self.last_parent {
            Some((last, opened)) if last == parent => return Ok((opened.try_clone()?, name)),
            _ => {}
        }

        let opened = self.open_directory(parent, OFlags::PATH)?;
        self.last_parent = Some((parent.to_owned(), opened.try_clone()?));
        Ok((opened, name))
    }

    fn open_directory(&self, path: &Path, flags: OFlags) -> rustix::io::Result<OwnedFd> {
        let flags = flags | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut opened = openat(&self.root, ".", flags, Mode::empty())?;
        for component in path {
            opened = openat(&opened, component, flags, Mode::empty())?;
        }
        Ok(opened)
    }

    /// Gives the new directories that `path` is not in their permissions and times.
    fn leave_directories(&mut self, path: &Path) {
        while let Some(left) = self
            .directories
            .pop_if(|directory| path.as_os_str().is_empty() || !path.starts_with(&directory.path))
        {
            let Ok(opened) = self.open_directory(&left.path, OFlags::RDONLY) else {
                continue;
            };

            // The owner's permissions were added for the content.
            let added = 0o700 & !left.mode;
            if added != 0
                && let Ok(stat) = rustix::fs::fstat(&opened)
            {
                let _ = fchmod(&opened, Mode::from_raw_mode(stat.st_mode & 0o777 & !added));
            }
            set_modified(&opened, left.modified);
        }
    }
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
fn stays_inside(path: &Path, target: &Path) -> bool {
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
fn create(parent: &OwnedFd, name: &OsStr, mode: Mode) -> Result<File, EntryError> {
    remove_existing(parent, name)?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(File::from(openat(parent, name, flags, mode)?))
}

fn remove_existing(parent: &OwnedFd, name: &OsStr) -> Result<(), EntryError> {
    match unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(Errno::ISDIR) => Err(EntryError::failed(
            "a directory of that name exists on this host",
        )),
        Err(errno) => Err(errno.into()),
    }
}

/// Copies the content of an entry. Pieces of zeros of a sparse file become holes.
fn copy_content(
    entry: &mut impl Read,
    file: &File,
    size: u64,
    is_sparse: bool,
) -> Result<(), EntryError> {
    let mut piece = vec![0; PIECE_BYTES];
    let mut written = 0;

    while written < size {
        let rest = usize::try_from(size - written).unwrap_or(PIECE_BYTES);
        let len = entry
            .read(&mut piece[..rest.min(PIECE_BYTES)])
            .map_err(EntryError::Fatal)?;
        if len == 0 {
            return Err(EntryError::Fatal(io::ErrorKind::UnexpectedEof.into()));
        }

        let content = &piece[..len];
        if !is_sparse || content.iter().any(|byte| *byte != 0) {
            file.write_all_at(content, written)?;
        }
        written += len as u64;
    }

    if is_sparse {
        file.set_len(size)?;
    }
    Ok(())
}

/// Returns when an entry was modified, in seconds since 1970.
fn modified(entry: &Entry<'_, impl Read>) -> i64 {
    // The library returns the last eight bytes of a number in two's complement.
    entry.header().mtime().unwrap_or_default().cast_signed()
}

/// Sets the time, as far as this host's file system can store it.
fn set_modified(file: &impl AsFd, seconds: i64) {
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

fn identity(stat: &Stat) -> (u64, u64) {
    (stat.st_dev, stat.st_ino)
}
