use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// Why a guest's memory could not be read.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// The kernel shows no memory of the process, or does not let us read it.
    #[error(
        "the memory of QEMU's process cannot be read: {0}; it must be a child of this one, and ptrace be allowed"
    )]
    Unreadable(#[from] io::Error),
    /// There is none, or more than one, of that size.
    #[error(
        "{found} mappings of QEMU's process have the size of the guest's memory, where one was expected"
    )]
    Unclear {
        /// How many have it.
        found: usize,
    },
}

/// A page of memory, in bytes.
const PAGE: usize = 4096;
/// A page that holds nothing.
const ZEROS: [u8; PAGE] = [0; PAGE];
/// Bytes of an entry in `/proc/PID/pagemap`.
const ENTRY: usize = 8;
/// Pages read at once: 1 MiB.
const RUN: usize = 256;

/// What an entry of `/proc/PID/pagemap` says.
const PRESENT: u64 = 1 << 63;
const SWAPPED: u64 = 1 << 62;
const OF_A_FILE: u64 = 1 << 61;

/// The memory of a QEMU's guest, seen from outside. The guest should be stopped meanwhile.
#[derive(Debug)]
pub struct GuestMemory {
    mem: File,
    pagemap: File,
    start: u64,
    bytes: u64,
}

impl GuestMemory {
    /// The guest's memory of `bytes` in the process `pid`. QEMU maps it apart from everything else,
    /// so its size is enough to find it.
    ///
    /// # Errors
    /// [`MemoryError`].
    pub fn open(pid: u32, bytes: u64) -> Result<Self, MemoryError> {
        let maps = std::fs::read_to_string(format!("/proc/{pid}/maps"))?;
        let found: Vec<u64> = maps
            .lines()
            .filter_map(mapping)
            .filter(|(start, end)| end - start == bytes)
            .map(|(start, _)| start)
            .collect();
        let [start] = found[..] else {
            return Err(MemoryError::Unclear { found: found.len() });
        };
        let open = |name: &str| File::open(format!("/proc/{pid}/{name}"));
        let (mem, pagemap) = (open("mem")?, open("pagemap")?);
        Ok(Self {
            mem,
            pagemap,
            start,
            bytes,
        })
    }

    /// Copies every page that is the process's own to the same offset of `to`; pages that are still
    /// those of a file mapped privately are left out. Pages of zeros are left out where `sparse`.
    /// Returns the bytes written.
    ///
    /// # Errors
    /// The operating system's.
    pub fn copy_private_pages(&self, to: &File, sparse: bool) -> io::Result<u64> {
        let entries = self.entries()?;
        let mut buffer = vec![0; RUN * PAGE];
        let (mut written, mut first) = (0, 0);
        while first < entries.len() {
            let run = entries[first..].iter().take(RUN);
            let pages = run.take_while(|entry| is_own(**entry)).count();
            if pages == 0 {
                first += 1;
                continue;
            }
            let run = &mut buffer[..pages * PAGE];
            let offset = (first * PAGE) as u64;
            self.mem.read_exact_at(run, self.start + offset)?;
            written += write_run(to, run, offset, sparse)?;
            first += pages;
        }
        Ok(written)
    }

    fn entries(&self) -> io::Result<Vec<u64>> {
        let pages = usize::try_from(self.bytes).unwrap_or(0) / PAGE;
        let mut bytes = vec![0; pages * ENTRY];
        let offset = self.start / PAGE as u64 * ENTRY as u64;
        self.pagemap.read_exact_at(&mut bytes, offset)?;
        let (entries, _) = bytes.as_chunks::<ENTRY>();
        Ok(entries
            .iter()
            .map(|entry| u64::from_ne_bytes(*entry))
            .collect())
    }
}

fn is_own(entry: u64) -> bool {
    entry & (PRESENT | SWAPPED) != 0 && entry & OF_A_FILE == 0
}

/// Start and end of a mapping that can be read and written and is private.
fn mapping(line: &str) -> Option<(u64, u64)> {
    let (range, rest) = line.split_once(' ')?;
    let (start, end) = range.split_once('-')?;
    let address = |text| u64::from_str_radix(text, 16).ok();
    rest.starts_with("rw-p")
        .then_some((address(start)?, address(end)?))
}

/// Writes pages, all of them or those that are not all zeros.
fn write_run(to: &File, run: &[u8], offset: u64, sparse: bool) -> io::Result<u64> {
    if !sparse {
        to.write_all_at(run, offset)?;
        return Ok(run.len() as u64);
    }
    let (mut written, mut at) = (0, 0);
    while at < run.len() {
        // To compare is several times faster than to look at each byte.
        let is_data = |page: &&[u8]| **page != ZEROS[..page.len()];
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
            mapping("7f00-7fff rw-p 00000000 00:00 0 "),
            Some((0x7f00, 0x7fff))
        );
        for other in ["7f00-7fff r--p 0 00:00 0", "7f00-7fff rw-s 0 00:00 0", "no"] {
            assert_eq!(mapping(other), None, "{other}");
        }
    }

    #[test]
    fn own_pages_are_told_from_a_files() {
        assert!(is_own(PRESENT) && is_own(SWAPPED));
        assert!(!is_own(0) && !is_own(PRESENT | OF_A_FILE));
    }

    #[test]
    fn zeros_stay_holes_where_that_is_wanted() {
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
    fn a_size_that_no_mapping_has_is_refused() {
        let error = GuestMemory::open(std::process::id(), 12345 * PAGE as u64).unwrap_err();
        assert!(
            matches!(error, MemoryError::Unclear { found: 0 }),
            "{error}"
        );
    }
}
