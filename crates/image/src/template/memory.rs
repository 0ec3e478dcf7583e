//! The guest's memory without its pages of zeros.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use sha2::{Digest, Sha256};

use crate::hash;
use crate::sparse::next_extent;

/// The size of a page of guest memory in bytes. Zeros are skipped page by page.
const PAGE: usize = 4096;
/// The read size: 1 MiB, large enough that the cost of the calls is negligible.
const CHUNK: usize = 256 * PAGE;
const ZEROS: [u8; PAGE] = [0; PAGE];

/// The size and the hash of the data in a guest's memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct MemoryDigest {
    /// See [`TemplateManifest::ram_data_bytes`](super::TemplateManifest).
    pub(super) data_bytes: u64,
    /// See [`TemplateManifest::ram_sha256`](super::TemplateManifest).
    pub(super) sha256: String,
}

/// Copies the first `bytes` of `ram` to an empty file, skipping pages of zeros, and hashes the data.
pub(super) fn save(ram: &File, bytes: u64, to: &File) -> io::Result<MemoryDigest> {
    walk(ram, bytes, |offset, run| to.write_all_at(run, offset))
}

/// Hashes the first `bytes` of `ram`.
pub(super) fn hash(ram: &File, bytes: u64) -> io::Result<MemoryDigest> {
    walk(ram, bytes, |_, _| Ok(()))
}

/// Hashes every run of pages that contain data, and passes its offset and contents to `each`.
fn walk(
    ram: &File,
    bytes: u64,
    mut each: impl FnMut(u64, &[u8]) -> io::Result<()>,
) -> io::Result<MemoryDigest> {
    let mut hasher = Sha256::new();
    hasher.update(bytes.to_le_bytes());
    let mut chunk = vec![0; CHUNK];
    let (mut data_bytes, mut at) = (0, 0);
    while let Some(extent) = next_extent(ram, at)? {
        // On a file system with small blocks, an extent may start or end within a page.
        let mut from = extent.start / PAGE as u64 * PAGE as u64;
        let end = extent.end.next_multiple_of(PAGE as u64).min(bytes);

        while from < end {
            let size = usize::try_from(end - from).map_or(CHUNK, |left| left.min(CHUNK));
            let chunk = &mut chunk[..size];
            ram.read_exact_at(chunk, from)?;

            for (start, run) in runs(chunk) {
                let offset = from + start as u64;
                hash_pages(&mut hasher, offset, run);
                each(offset, run)?;
                data_bytes += run.len() as u64;
            }

            from += size as u64;
        }

        at = end.max(extent.end);
        if at >= bytes {
            break;
        }
    }

    Ok(MemoryDigest {
        data_bytes,
        sha256: hash::hex(&hasher.finalize()),
    })
}

/// Hashes the offset and contents of each page of a run.
fn hash_pages(hasher: &mut Sha256, offset: u64, run: &[u8]) {
    for (page, at) in run.chunks(PAGE).zip((offset..).step_by(PAGE)) {
        hasher.update(at.to_le_bytes());
        hasher.update(page);
    }
}

/// Returns the runs of pages that contain data, with their offsets. Comparing whole pages is six times as
/// fast as examining each byte.
fn runs(chunk: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    let mut pages = chunk.chunks(PAGE).enumerate().peekable();
    std::iter::from_fn(move || {
        let is_data = |(_, page): &(usize, &[u8])| **page != ZEROS[..page.len()];
        while pages.next_if(|page| !is_data(page)).is_some() {}
        let (first, _) = *pages.peek()?;

        let mut end = first * PAGE;
        while let Some((_, page)) = pages.next_if(is_data) {
            end += page.len();
        }

        Some((first * PAGE, &chunk[first * PAGE..end]))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(bytes: u64, pieces: &[(u64, &[u8])]) -> File {
        let file = tempfile::tempfile().unwrap();
        file.set_len(bytes).unwrap();
        for (offset, contents) in pieces {
            file.write_all_at(contents, *offset).unwrap();
        }
        file
    }

    #[test]
    fn the_hash_does_not_depend_on_holes() {
        let bytes = 3 << 20;
        let sparse = file(bytes, &[(5 * 4096 + 7, b"x"), (2 << 20, b"y")]);
        let mut flat = vec![0; 3 << 20];
        flat[5 * 4096 + 7] = b'x';
        flat[2 << 20] = b'y';
        let dense = file(bytes, &[(0, &flat)]);
        let contents = hash(&sparse, bytes).unwrap();
        assert_eq!(contents, hash(&dense, bytes).unwrap());
        assert_eq!(contents.data_bytes, 2 * PAGE as u64);
    }

    #[test]
    fn the_hash_depends_on_bytes_offsets_and_size() {
        let bytes = 1 << 20;
        let of = |bytes, at, byte: &[u8]| hash(&file(bytes, &[(at, byte)]), bytes).unwrap().sha256;
        let all = [
            of(bytes, 0, b"x"),
            of(bytes, 0, b"y"),
            of(bytes, 4096, b"x"),
            of(bytes + 1, 0, b"x"),
            of(bytes, 1, b"x"),
        ];

        for (n, one) in all.iter().enumerate() {
            assert!(!all[n + 1..].contains(one), "{n}");
        }
    }

    #[test]
    fn a_partial_last_page_is_hashed() {
        let odd = file(4096 + 10, &[(4096, b"tail")]);
        let contents = hash(&odd, 4096 + 10).unwrap();
        assert_eq!(contents.data_bytes, 10);
        let empty = hash(&file(0, &[]), 0).unwrap();
        assert_eq!(empty.data_bytes, 0);
    }

    #[test]
    fn finds_runs_at_both_ends() {
        let mut chunk = vec![0; 5 * PAGE];
        for page in [0, 2, 3] {
            chunk[page * PAGE] = 1;
        }

        let found: Vec<_> = runs(&chunk).map(|(at, run)| (at, run.len())).collect();
        assert_eq!(found, [(0, PAGE), (2 * PAGE, 2 * PAGE)]);
        chunk[4 * PAGE] = 1;
        assert_eq!(runs(&chunk).last().unwrap().1.len(), 3 * PAGE);
        assert_eq!(runs(&[]).count(), 0);
    }

    #[test]
    fn a_full_disk_is_reported() {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let error = save(&file(4096, &[(0, b"x")]), 4096, &full).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    }
}
