use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use serde::{Deserialize, Serialize};

/// Why the memory of a guest could not be read.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// The kernel does not let us read the memory of the process.
    #[error(
        "cannot read the memory of the QEMU process: {0}; it must be a child of this process, and ptrace must be allowed"
    )]
    Unreadable(#[from] io::Error),
    /// No mapping, or more than one, has that size.
    #[error(
        "{found} mappings of the QEMU process have the size of the guest's memory; expected exactly one"
    )]
    Ambiguous {
        /// The number of mappings with that size.
        found: usize,
    },
}

/// The size of a page, in bytes.
pub(crate) const PAGE: usize = 4096;
/// A page of zeros.
const ZERO_PAGE: [u8; PAGE] = [0; PAGE];
/// The size of an entry in `/proc/PID/pagemap`, in bytes.
const ENTRY: usize = 8;
/// The maximum number of pages read at once: 1 MiB.
const MAX_RUN: usize = 256;

/// Flags of an entry of `/proc/PID/pagemap`.
const PRESENT: u64 = 1 << 63;
const SWAPPED: u64 = 1 << 62;
const FILE_BACKED: u64 = 1 << 61;

/// Where a guest's memory is in its QEMU process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestRange {
    /// The first address.
    pub start: u64,
    /// The size, in bytes.
    pub bytes: u64,
}

impl GuestRange {
    /// Finds the guest's memory of `bytes` bytes in the process `pid`, which has executed QEMU. QEMU maps it separately, so
    /// its size is enough to find it.
    ///
    /// # Errors
    /// [`MemoryError`].
    pub fn find(pid: u32, bytes: u64) -> Result<Self, MemoryError> {
        let maps = std::fs::read_to_string(format!("/proc/{pid}/maps"))?;
        let starts: Vec<u64> = maps
            .lines()
            .filter_map(parse_mapping)
            .filter(|(start, end)| end - start == bytes)
            .map(|(start, _)| start)
            .collect();

        let [start] = starts[..] else {
            return Err(MemoryError::Ambiguous {
                found: starts.len(),
            });
        };
        Ok(Self { start, bytes })
    }

    /// Returns the first address after it.
    pub(crate) const fn end(&self) -> u64 {
        self.start.saturating_add(self.bytes)
    }
}

/// The memory of a guest, read from outside its QEMU process. The guest should be stopped while this is used.
#[derive(Debug)]
pub struct GuestMemory {
    mem: File,
    pagemap: File,
    range: GuestRange,
}

impl GuestMemory {
    /// Opens the guest's memory in the process `pid`.
    ///
    /// # Errors
    /// [`MemoryError::Unreadable`].
    pub fn open(pid: u32, range: GuestRange) -> Result<Self, MemoryError> {
        let open = |name: &str| File::open(format!("/proc/{pid}/{name}"));
        let (mem, pagemap) = (open("mem")?, open("pagemap")?);
        Ok(Self {
            mem,
            pagemap,
            range,
        })
    }

    /// Copies every private page of the process to the same offset of `to`. Unmodified pages of a privately mapped
    /// file are left out, and with `sparse` also pages of zeros. Returns the number of bytes written.
    ///
    /// # Errors
    /// The error of the operating system.
    pub fn copy_private_pages(&self, to: &File, sparse: bool) -> io::Result<u64> {
        let mut written = 0;
        self.read_pages(&self.private_pages()?, |offset, run| {
            written += write_run(to, run, offset, sparse)?;
            Ok(())
        })?;
        Ok(written)
    }

    /// Finds the private pages of the process: all but unmodified pages of a privately mapped file.
    ///
    /// # Errors
    /// The error of the operating system.
    pub fn private_pages(&self) -> io::Result<GuestPages> {
        let entries = read_pagemap(&self.pagemap, self.range.start, self.range.bytes)?;
        Ok(GuestPages(entries.into_iter().map(is_private).collect()))
    }

    /// Passes the contents of these pages to `each`, with their offsets in increasing order.
    ///
    /// # Errors
    /// The error of the operating system or of `each`.
    pub fn read_pages(
        &self,
        pages: &GuestPages,
        mut each: impl FnMut(u64, &[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        pages.read(&self.mem, self.range.start, &mut each)
    }
}

/// A set of pages of a guest's memory.
#[derive(Debug, Clone)]
pub struct GuestPages(Vec<bool>);

impl GuestPages {
    /// Returns an empty set for a memory of this size.
    #[must_use]
    pub fn none(memory_bytes: u64) -> Self {
        let pages = usize::try_from(memory_bytes).unwrap_or(0) / PAGE;
        Self(vec![false; pages])
    }

    /// Adds the pages of a range of offsets.
    pub fn add(&mut self, range: Range<u64>) {
        let page = |at: u64| usize::try_from(at / PAGE as u64).unwrap_or(usize::MAX);
        let end = page(range.end.next_multiple_of(PAGE as u64)).min(self.0.len());
        if let Some(pages) = self.0.get_mut(page(range.start)..end) {
            pages.fill(true);
        }
    }

    /// Passes the contents of the pages in a file with the whole memory to `each`, with their offsets in increasing order.
    ///
    /// # Errors
    /// The error of the operating system or of `each`.
    pub fn read_from(
        &self,
        memory: &File,
        each: &mut dyn FnMut(u64, &[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        self.read(memory, 0, each)
    }

    fn read(
        &self,
        from: &File,
        start: u64,
        each: &mut dyn FnMut(u64, &[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut buffer = vec![0; MAX_RUN * PAGE];
        let mut first = 0;
        while first < self.0.len() {
            // The next run of selected pages; others are skipped one by one.
            let run = self.0[first..].iter().take(MAX_RUN);
            let count = run.take_while(|is_selected| **is_selected).count();
            if count == 0 {
                first += 1;
                continue;
            }

            let run = &mut buffer[..count * PAGE];
            let offset = (first * PAGE) as u64;
            from.read_exact_at(run, start + offset)?;
            each(offset, run)?;
            first += count;
        }
        Ok(())
    }

    /// Returns the size of the pages in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let count = self.0.iter().filter(|is_selected| **is_selected).count();
        (count * PAGE) as u64
    }
}

/// Reads the entries of pages from `/proc/PID/pagemap`.
pub(crate) fn read_pagemap(pagemap: &File, start: u64, bytes: u64) -> io::Result<Vec<u64>> {
    let pages = usize::try_from(bytes).unwrap_or(0) / PAGE;
    let mut entries = vec![0; pages * ENTRY];
    let offset = start / PAGE as u64 * ENTRY as u64;
    pagemap.read_exact_at(&mut entries, offset)?;
    let (entries, _) = entries.as_chunks::<ENTRY>();
    Ok(entries
        .iter()
        .map(|entry| u64::from_ne_bytes(*entry))
        .collect())
}

/// Returns whether a page exists and is not a page of a file.
pub(crate) fn is_private(entry: u64) -> bool {
    entry & (PRESENT | SWAPPED) != 0 && entry & FILE_BACKED == 0
}

/// Parses a line of `/proc/PID/maps`. Returns start and end of a private mapping that is readable and writable.
fn parse_mapping(line: &str) -> Option<(u64, u64)> {
    let (range, rest) = line.split_once(' ')?;
    let (start, end) = range.split_once('-')?;
    let address = |text| u64::from_str_radix(text, 16).ok();
    rest.starts_with("rw-p")
        .then_some((address(start)?, address(end)?))
}

/// Writes pages: all of them, or with `sparse` only those that are not all zeros.
pub(crate) fn write_run(to: &File, run: &[u8], offset: u64, sparse: bool) -> io::Result<u64> {
    if !sparse {
        to.write_all_at(run, offset)?;
        return Ok(run.len() as u64);
    }

    let (mut written, mut at) = (0, 0);
    while at < run.len() {
        // Comparing pages is several times faster than checking each byte.
        let is_data = |page: &&[u8]| **page != ZERO_PAGE[..page.len()];
        let data: usize = run[at..]
            .chunks(PAGE)
            .take_while(is_data)
            .map(<[u8]>::len)
            .sum();
        if data == 0 {
            at += PAGE;
            continue;
        }

        to.write_all_at(&run[at..at + data], offset + at as u64)?;
        written += data as u64;
        at += data;
    }

    Ok(written)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_private_writable_mappings_count() {
        assert_eq!(
            parse_mapping("7f00-7fff rw-p 00000000 00:00 0 "),
            Some((0x7f00, 0x7fff))
        );

        for other in ["7f00-7fff r--p 0 00:00 0", "7f00-7fff rw-s 0 00:00 0", "no"] {
            assert_eq!(parse_mapping(other), None, "{other}");
        }
    }

    #[test]
    fn private_pages_are_distinguished_from_file_pages() {
        assert!(is_private(PRESENT) && is_private(SWAPPED));
        assert!(!is_private(0) && !is_private(PRESENT | FILE_BACKED));
    }

    #[test]
    fn zeros_stay_holes_in_a_sparse_copy() {
        use std::os::unix::fs::MetadataExt;
        let mut run = vec![0; 4 * PAGE];
        run[2 * PAGE + 5] = 1;
        let file = tempfile::tempfile().unwrap();
        assert_eq!(
            write_run(&file, &run, PAGE as u64, true).unwrap(),
            PAGE as u64
        );
        assert_eq!(file.metadata().unwrap().len(), 4 * PAGE as u64);
        assert!(file.metadata().unwrap().blocks() * 512 <= 2 * PAGE as u64);
        let mut byte = [0];
        file.read_exact_at(&mut byte, 3 * PAGE as u64 + 5).unwrap();
        assert_eq!(byte, [1]);
        assert_eq!(write_run(&file, &run, 0, false).unwrap(), 4 * PAGE as u64);
    }

    #[test]
    fn a_size_without_a_mapping_is_an_error() {
        let error = GuestRange::find(std::process::id(), 12345 * PAGE as u64).unwrap_err();
        assert!(
            matches!(error, MemoryError::Ambiguous { found: 0 }),
            "{error}"
        );
    }
}
