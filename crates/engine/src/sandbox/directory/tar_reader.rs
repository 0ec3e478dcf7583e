//! Reads the entries of a tar stream from a guest. The library's own iterator looks through all parts of a sparse file
//! for each of them, so that a stream of 1 MiB would keep a processor busy for minutes; here every byte of a stream is
//! read once, and holes cost nothing.

use std::io::{self, Read};

use tar::{EntryType, GnuExtSparseHeader, GnuSparseHeader, Header, PaxExtensions};

use super::stream::{MAX_PATH_BYTES, MAX_TREE_BYTES, Part, invalid};

/// Size of a header, and unit of the stream, in bytes.
const BLOCK_BYTES: u64 = 512;
/// Maximum size of the content of a header that describes the next entry, in bytes.
const MAX_EXTENSION_BYTES: u64 = 1024 * 1024;
/// Maximum number of such headers before an entry. GNU tar writes two.
const MAX_EXTENSIONS: usize = 8;
/// Maximum number of parts of a sparse file: as many as a file of 1 GiB has whose every other page is a hole.
const MAX_PARTS: usize = 128 * 1024;

/// The description of a file in the stream. Its content follows in the reader.
#[derive(Debug)]
pub(super) struct TarEntry {
    pub(super) kind: EntryType,
    /// The path; one that is longer than [`MAX_PATH_BYTES`] is cut after one more byte.
    pub(super) path: Vec<u8>,
    /// The target of a link, cut in the same way.
    pub(super) link: Vec<u8>,
    /// The permissions, as the stream has them.
    pub(super) mode: u32,
    /// When the file was modified, in seconds since 1970.
    pub(super) modified: i64,
    /// The size of the file with its holes, in bytes.
    pub(super) size: u64,
    /// The parts of a sparse file that are not holes, in the order of their contents.
    pub(super) parts: Option<Vec<Part>>,
    /// The content describes a sparse file in a form that is not supported.
    pub(super) has_unknown_form: bool,
}

/// The extended headers before an entry.
#[derive(Debug, Default)]
struct Extensions {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    is_sparse: bool,
}

/// A tar stream.
#[derive(Debug)]
pub(super) struct TarReader<R> {
    from: R,
    /// Bytes of the current content that were not read yet.
    unread: u64,
    /// Bytes between the current content and the next header.
    padding: u64,
}

impl<R: Read> TarReader<R> {
    pub(super) fn new(from: R) -> Self {
        Self {
            from,
            unread: 0,
            padding: 0,
        }
    }

    /// Returns the next entry, and skips the rest of the one before. `None` at the end of the stream.
    ///
    /// # Errors
    /// `InvalidData` if the stream is not a tar, or exceeds a limit; `UnexpectedEof` if it ends in an entry.
    pub(super) fn next(&mut self) -> io::Result<Option<TarEntry>> {
        let mut extensions = Extensions::default();

        for _ in 0..=MAX_EXTENSIONS {
            self.skip_content()?;
            let Some(header) = self.read_header()? else {
                return Ok(None);
            };
            let size = header.entry_size().map_err(unreadable)?;

            match header.entry_type() {
                EntryType::GNULongName => extensions.path = Some(self.read_name(size)?),
                EntryType::GNULongLink => extensions.link = Some(self.read_name(size)?),
                EntryType::XHeader => {
                    let content = self.read_extension(size)?;
                    extensions.add_pax(&content)?;
                }
                EntryType::XGlobalHeader => self.start_content(size)?,
                _ => return self.entry(&header, extensions).map(Some),
            }
        }

        Err(invalid("too many headers before an entry"))
    }

    /// Fills a buffer with the next bytes of the current content.
    ///
    /// # Errors
    /// As [`next`](Self::next).
    pub(super) fn read_content(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        let left = self.unread.checked_sub(buffer.len() as u64);
        self.unread = left.ok_or_else(|| invalid("an entry is longer than its content"))?;
        self.from.read_exact(buffer)
    }

    /// Reads a header and checks its sum. Returns `None` at the end of the stream.
    fn read_header(&mut self) -> io::Result<Option<Header>> {
        let mut header = Header::new_old();
        let block = header.as_mut_bytes();
        let first = loop {
            match self.from.read(block) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => break result?,
            }
        };
        if first == 0 {
            return Ok(None);
        }
        self.from.read_exact(&mut block[first..])?;
        if block.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }

        // The sum counts its own field as spaces.
        let (before, after) = (&block[..148], &block[156..]);
        let sum: u32 = before
            .iter()
            .chain(after)
            .map(|byte| u32::from(*byte))
            .sum();
        match header.cksum() {
            Ok(stored) if stored == sum + 8 * u32::from(b' ') => Ok(Some(header)),
            _ => Err(invalid("a header has a wrong checksum")),
        }
    }

    fn entry(&mut self, header: &Header, extensions: Extensions) -> io::Result<TarEntry> {
        let kind = header.entry_type();
        let stored = header.entry_size().map_err(unreadable)?;
        let stored = extensions.size.unwrap_or(stored);

        let sparse = match kind {
            EntryType::GNUSparse => Some(self.read_parts(header, stored)?),
            _ => None,
        };
        self.start_content(stored)?;

        let mut path = extensions
            .path
            .unwrap_or_else(|| header.path_bytes().into_owned());
        path.truncate(MAX_PATH_BYTES + 1);
        let own_link = || header.link_name_bytes().unwrap_or_default().into_owned();
        let mut link = extensions.link.unwrap_or_else(own_link);
        link.truncate(MAX_PATH_BYTES + 1);

        let (size, parts) = sparse.map_or((stored, None), |(size, parts)| (size, Some(parts)));

        Ok(TarEntry {
            kind,
            path,
            link,
            mode: header.mode().map_err(unreadable)?,
            // The library returns the last eight bytes of a number in two's complement.
            modified: header.mtime().unwrap_or_default().cast_signed(),
            size,
            parts,
            has_unknown_form: extensions.is_sparse,
        })
    }

    /// Reads the map of a sparse file whose parts have `stored` bytes. Returns the file's size with its holes, and its
    /// parts.
    fn read_parts(&mut self, header: &Header, stored: u64) -> io::Result<(u64, Vec<Part>)> {
        let gnu = header.as_gnu();
        let gnu = gnu.ok_or_else(|| invalid("a sparse file has a header of another format"))?;
        let size = gnu.real_size().map_err(unreadable)?;

        let mut parts = Vec::new();
        add_parts(&mut parts, &gnu.sparse)?;
        let mut is_extended = gnu.is_extended();
        while is_extended {
            let mut block = GnuExtSparseHeader::new();
            self.from.read_exact(block.as_mut_bytes())?;
            add_parts(&mut parts, &block.sparse)?;
            is_extended = block.is_extended();
        }

        // In order, without overlaps, and exactly the content.
        let wrong = || invalid("a sparse file has a wrong map");
        let (mut end, mut content) = (0, 0_u64);
        for part in &parts {
            if part.offset < end {
                return Err(wrong());
            }
            end = part.offset.checked_add(part.len).ok_or_else(wrong)?;
            content = content.checked_add(part.len).ok_or_else(wrong)?;
        }
        if end > size || content != stored {
            return Err(wrong());
        }

        Ok((size, parts))
    }

    fn start_content(&mut self, size: u64) -> io::Result<()> {
        if size > MAX_TREE_BYTES {
            return Err(invalid(&format!("more than {MAX_TREE_BYTES} bytes")));
        }

        self.unread = size;
        self.padding = size.next_multiple_of(BLOCK_BYTES) - size;

        Ok(())
    }

    fn skip_content(&mut self) -> io::Result<()> {
        let len = self.unread + self.padding;
        (self.unread, self.padding) = (0, 0);

        match io::copy(&mut (&mut self.from).take(len), &mut io::sink())? {
            skipped if skipped == len => Ok(()),
            _ => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    /// Reads the content of a header that describes the next entry.
    fn read_extension(&mut self, size: u64) -> io::Result<Vec<u8>> {
        if size > MAX_EXTENSION_BYTES {
            return Err(invalid("a header is too long"));
        }

        self.start_content(size)?;
        let mut content = vec![0; usize::try_from(size).unwrap_or(0)];
        self.read_content(&mut content)?;

        Ok(content)
    }

    /// Reads a long path, which ends with a NUL.
    fn read_name(&mut self, size: u64) -> io::Result<Vec<u8>> {
        let mut name = self.read_extension(size)?;
        let len = name.iter().position(|byte| *byte == 0);
        name.truncate(len.unwrap_or(name.len()));

        Ok(name)
    }
}

impl Extensions {
    /// Reads the records of the format of POSIX.
    fn add_pax(&mut self, content: &[u8]) -> io::Result<()> {
        for record in PaxExtensions::new(content) {
            let record = record.map_err(unreadable)?;
            let value = record.value_bytes();

            match record.key_bytes() {
                b"path" => self.path = Some(value.to_vec()),
                b"linkpath" => self.link = Some(value.to_vec()),
                b"size" => {
                    let size = std::str::from_utf8(value).ok().and_then(|v| v.parse().ok());
                    self.size = Some(size.ok_or_else(|| invalid("a size is not a number"))?);
                }
                key if key.starts_with(b"GNU.sparse.") => self.is_sparse = true,
                _ => {}
            }
        }

        Ok(())
    }
}

/// Adds the parts in the fields of a header; the first empty field ends them.
fn add_parts(parts: &mut Vec<Part>, fields: &[GnuSparseHeader]) -> io::Result<()> {
    for field in fields.iter().take_while(|field| !field.is_empty()) {
        if parts.len() >= MAX_PARTS {
            return Err(invalid(&format!("a file of more than {MAX_PARTS} parts")));
        }
        parts.push(Part {
            offset: field.offset().map_err(unreadable)?,
            len: field.length().map_err(unreadable)?,
        });
    }

    Ok(())
}

/// The library does not say that a header is the reason of its errors.
fn unreadable(error: io::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}
