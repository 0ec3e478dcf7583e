//! Packs a directory of this host. Files that cannot be read or have no meaning in a guest are skipped and recorded:
//! only the end of the stream's reader is an error.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{OFlags, SeekFrom, seek};
use tar::{Builder, EntryType, GnuExtSparseHeader, GnuSparseHeader, Header};

use super::stream::{ChunkWriter, MAX_PATH_BYTES, Part};
use crate::run::SkippedFiles;

/// Maximum length of a name in a guest, in bytes.
const MAX_NAME_BYTES: usize = 255;
/// Unit of a tar stream, in bytes. Parts of sparse files start and end at its multiples.
const BLOCK_BYTES: u64 = 512;
/// Seconds since 1970 from which a time does not fit into the octal field of a header: the year 2242.
const MAX_OCTAL_TIME: i64 = 1 << 33;

/// Whether the stream contains the packed directory itself, which sets permissions and time of the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RootEntry {
    Include,
    Omit,
}

/// Packs a directory. Returns the files that were skipped.
///
/// # Errors
/// The directory itself cannot be read, or the stream has no reader.
pub(super) fn pack(from: &Path, root: RootEntry, to: ChunkWriter) -> io::Result<SkippedFiles> {
    let mut packer = Packer {
        root: from.to_owned(),
        builder: Builder::new(to),
        packed_links: HashMap::new(),
        skipped: SkippedFiles::default(),
    };

    let names = sorted_names(from)?;
    if root == RootEntry::Include {
        let metadata = std::fs::metadata(from)?;
        packer.append(&header(&metadata, EntryType::Directory), ".", io::empty())?;
    }

    // Depth first: the guest's tar completes a directory when it leaves it.
    let mut directories = vec![(PathBuf::new(), names.into_iter())];
    while let Some((directory, names)) = directories.last_mut() {
        let Some(name) = names.next() else {
            directories.pop();
            continue;
        };

        let path = directory.join(name);
        if let Some(names) = packer.add(&path)? {
            directories.push((path, names.into_iter()));
        }
    }

    packer.builder.into_inner()?.finish()?;
    Ok(packer.skipped)
}

struct Packer {
    root: PathBuf,
    builder: Builder<ChunkWriter>,
    /// The first path of each file with several names, by device and inode.
    packed_links: HashMap<(u64, u64), PathBuf>,
    skipped: SkippedFiles,
}

impl Packer {
    /// Adds the file at a path. Returns the names in it if it is a directory.
    ///
    /// # Errors
    /// The stream has no reader.
    fn add(&mut self, path: &Path) -> io::Result<Option<Vec<OsString>>> {
        let name_len = path.file_name().map_or(0, OsStr::len);
        if path.as_os_str().len() > MAX_PATH_BYTES || name_len > MAX_NAME_BYTES {
            self.fail(path, "its path is too long for the guest");
            return Ok(None);
        }

        let source = self.root.join(path);
        let metadata = match std::fs::symlink_metadata(&source) {
            Ok(metadata) => metadata,
            Err(error) => {
                self.unreadable(path, &error);
                return Ok(None);
            }
        };

        let kind = metadata.file_type();
        if kind.is_dir() {
            return self.add_directory(path, &source, &metadata);
        } else if kind.is_file() {
            self.add_file(path, &source)?;
        } else if kind.is_symlink() {
            self.add_symlink(path, &source, &metadata)?;
        } else if kind.is_fifo() {
            self.append(&header(&metadata, EntryType::Fifo), path, io::empty())?;
        } else if kind.is_socket() {
            self.skip(path, "a socket");
        } else {
            self.skip(path, "a device");
        }

        Ok(None)
    }

    fn add_directory(
        &mut self,
        path: &Path,
        source: &Path,
        metadata: &Metadata,
    ) -> io::Result<Option<Vec<OsString>>> {
        self.append(&header(metadata, EntryType::Directory), path, io::empty())?;

        match sorted_names(source) {
            Ok(names) => Ok(Some(names)),
            Err(error) => {
                self.unreadable(path, &error);
                Ok(None)
            }
        }
    }

    fn add_symlink(&mut self, path: &Path, source: &Path, metadata: &Metadata) -> io::Result<()> {
        if self.add_second_name(path, metadata)? {
            return Ok(());
        }

        match std::fs::read_link(source) {
            Ok(target) => {
                let header = header(metadata, EntryType::Symlink);
                self.append_link(header, path, &target)?;
                self.remember_name(path, metadata);
            }
            Err(error) => self.unreadable(path, &error),
        }
        Ok(())
    }

    /// Adds the second name of a file that has been packed, as a hard link to the first. Returns whether it is one.
    fn add_second_name(&mut self, path: &Path, metadata: &Metadata) -> io::Result<bool> {
        let first = self.packed_links.get(&(metadata.dev(), metadata.ino()));
        let Some(first) = first.cloned() else {
            return Ok(false);
        };

        self.append_link(header(metadata, EntryType::Link), path, &first)?;
        Ok(true)
    }

    /// Remembers the name of a file that has been packed, if the file has others.
    fn remember_name(&mut self, path: &Path, metadata: &Metadata) {
        if metadata.nlink() > 1 {
            let identity = (metadata.dev(), metadata.ino());
            self.packed_links.insert(identity, path.to_owned());
        }
    }

    fn add_file(&mut self, path: &Path, source: &Path) -> io::Result<()> {
        // The path may lead to something else by now: a link, or a pipe without a writer.
        let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
        let opened = OpenOptions::new()
            .read(true)
            .custom_flags(flags.bits().cast_signed())
            .open(source);
        let (file, metadata) = match opened.and_then(|file| Ok((file.metadata()?, file))) {
            Ok((metadata, file)) if metadata.is_file() => (file, metadata),
            Ok(_) => {
                self.fail(path, "changed while the directory was copied");
                return Ok(());
            }
            Err(error) => {
                self.unreadable(path, &error);
                return Ok(());
            }
        };

        if !self.add_second_name(path, &metadata)? {
            self.append_content(path, file, &metadata)?;
            self.remember_name(path, &metadata);
        }
        Ok(())
    }

    fn append_content(&mut self, path: &Path, file: File, metadata: &Metadata) -> io::Result<()> {
        let parts = find_parts(&file, metadata);
        let (header, map) = content_header(metadata, &parts);
        let mut content = ContentReader::new(file, parts);
        self.append(&header, path, map.as_slice().chain(&mut content))?;

        if let Some(reason) = content.failure {
            self.fail(path, &format!("{reason}; the rest of the copy is zeros"));
        }
        Ok(())
    }

    fn append(
        &mut self,
        header: &Header,
        path: impl AsRef<Path>,
        content: impl Read,
    ) -> io::Result<()> {
        self.builder.append_data(&mut header.clone(), path, content)
    }

    fn append_link(&mut self, mut header: Header, path: &Path, target: &Path) -> io::Result<()> {
        // The library would rewrite a short target, such as one with two slashes.
        match header.set_link_name_literal(target.as_os_str().as_bytes()) {
            Ok(()) => self.append(&header, path, io::empty()),
            Err(_) => self.builder.append_link(&mut header, path, target),
        }
    }

    fn skip(&mut self, path: &Path, reason: &str) {
        self.skipped
            .add_uncopied(path.as_os_str().as_bytes(), reason);
    }

    fn fail(&mut self, path: &Path, reason: &str) {
        self.skipped.add_failed(path.as_os_str().as_bytes(), reason);
    }

    fn unreadable(&mut self, path: &Path, error: &io::Error) {
        match error.kind() {
            io::ErrorKind::NotFound => self.skip(path, "removed while the directory was copied"),
            _ => self.fail(path, &format!("cannot be read: {error}")),
        }
    }
}

/// Returns the names in a directory, sorted.
fn sorted_names(directory: &Path) -> io::Result<Vec<OsString>> {
    let names = std::fs::read_dir(directory)?.map(|entry| Ok(entry?.file_name()));
    let mut names = names.collect::<io::Result<Vec<_>>>()?;
    names.sort();
    Ok(names)
}

/// Returns a header without a path and size.
fn header(metadata: &Metadata, kind: EntryType) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(metadata.mode() & 0o7777);
    header.set_uid(0);
    header.set_gid(0);
    header.set_size(0);
    set_modified(&mut header, metadata.mtime());
    header
}

/// Writes a time, in seconds since 1970. One that does not fit into octal digits is written in two's complement, as GNU
/// tar does; the library knows no negative ones.
fn set_modified(header: &mut Header, seconds: i64) {
    if (0..MAX_OCTAL_TIME).contains(&seconds) {
        header.set_mtime(seconds.unsigned_abs());
        return;
    }

    let field = &mut header.as_old_mut().mtime;
    let (start, end) = field.split_at_mut(4);
    start.fill(if seconds < 0 { 0xff } else { 0 });
    end.copy_from_slice(&seconds.to_be_bytes());
    field[0] |= 0x80;
}

/// Returns the header of a file, and the blocks that follow it if the file has many parts.
fn content_header(metadata: &Metadata, parts: &[Part]) -> (Header, Vec<u8>) {
    let size = metadata.len();
    let is_dense = match parts {
        [] => size == 0,
        [part] => part.offset == 0 && part.len == size,
        _ => false,
    };
    if is_dense {
        let mut header = header(metadata, EntryType::Regular);
        header.set_size(size);
        return (header, Vec::new());
    }

    // An empty part ends a file that ends in a hole.
    let mut parts = parts.to_vec();
    if parts
        .last()
        .is_none_or(|last| last.offset + last.len < size)
    {
        parts.push(Part {
            offset: size,
            len: 0,
        });
    }

    let mut header = header(metadata, EntryType::GNUSparse);
    header.set_size(parts.iter().map(|part| part.len).sum());
    let mut map = Vec::new();
    if let Some(gnu) = header.as_gnu_mut() {
        gnu.set_real_size(size);
        let mut parts = parts.as_slice();
        write_parts(&mut gnu.sparse, &mut parts);
        gnu.set_is_extended(!parts.is_empty());

        while !parts.is_empty() {
            let mut block = GnuExtSparseHeader::new();
            write_parts(&mut block.sparse, &mut parts);
            block.set_is_extended(!parts.is_empty());
            map.extend_from_slice(block.as_bytes());
        }
    }
    (header, map)
}

/// Writes as many parts as there are fields, and removes them from `parts`.
fn write_parts(fields: &mut [GnuSparseHeader], parts: &mut &[Part]) {
    let (now, later) = parts.split_at(fields.len().min(parts.len()));
    for (field, part) in fields.iter_mut().zip(now) {
        field.set_offset(part.offset);
        field.set_length(part.len);
    }
    *parts = later;
}

/// Returns the parts of a file between its holes, each of whole blocks except at the end of the file.
fn find_parts(file: &File, metadata: &Metadata) -> Vec<Part> {
    let size = metadata.len();
    let whole = vec![Part {
        offset: 0,
        len: size,
    }];
    if size == 0 {
        return Vec::new();
    }
    if metadata.blocks().saturating_mul(512) >= size {
        return whole;
    }

    let mut parts: Vec<Part> = Vec::new();
    let mut position = 0;
    while position < size {
        let start = match seek(file, SeekFrom::Data(position)) {
            Ok(start) => start - start % BLOCK_BYTES,
            // There is nothing but a hole after this position.
            Err(rustix::io::Errno::NXIO) => break,
            Err(_) => return whole,
        };
        let Ok(end) = seek(file, SeekFrom::Hole(start.max(position))) else {
            return whole;
        };
        let end = end.next_multiple_of(BLOCK_BYTES).min(size);
        if end <= position || start >= size {
            break;
        }

        match parts.last_mut() {
            Some(last) if last.offset + last.len >= start => last.len = end - last.offset,
            _ => parts.push(Part {
                offset: start,
                len: end - start,
            }),
        }
        position = end;
    }

    parts
}

/// Reads the parts of a file, as many bytes as its header says: zeros in the place of what cannot be read any more.
struct ContentReader {
    file: File,
    parts: std::vec::IntoIter<Part>,
    part: Part,
    failure: Option<String>,
}

impl ContentReader {
    fn new(file: File, parts: Vec<Part>) -> Self {
        Self {
            file,
            parts: parts.into_iter(),
            part: Part { offset: 0, len: 0 },
            failure: None,
        }
    }
}

impl Read for ContentReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.part.len == 0 {
            match self.parts.next() {
                Some(part) => self.part = part,
                None => return Ok(0),
            }
        }

        let max = usize::try_from(self.part.len).unwrap_or(usize::MAX);
        let max = max.min(buffer.len());
        let buffer = &mut buffer[..max];
        let len = match self.file.read_at(buffer, self.part.offset) {
            Ok(len @ 1..) if self.failure.is_none() => len,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Err(error),
            result => {
                self.failure.get_or_insert_with(|| match result {
                    Ok(_) => "shortened while it was copied".to_owned(),
                    Err(error) => format!("cannot be read: {error}"),
                });
                buffer.fill(0);
                buffer.len()
            }
        };

        self.part.offset += len as u64;
        self.part.len -= len as u64;
        Ok(len)
    }
}
