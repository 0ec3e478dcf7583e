//! The index of stored pages: which pages a state has, and their checksums.

use super::format::{CHUNK, CHUNK_PAGES, MAX_MEMORY_BYTES, PAGE};

/// The size of an entry in bytes: number, data, zeros, checksum, each little-endian.
const ENTRY: usize = 12;

/// 16 pages of the guest's memory, of which at least one differs from the template.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Chunk {
    /// Its offset in the memory, in chunks.
    pub(super) number: u32,
    /// A bit for each page that is stored.
    pub(super) data: u16,
    /// A bit for each page that has become zero.
    pub(super) zeros: u16,
    /// The CRC-32C of the stored pages.
    pub(super) checksum: u32,
}

impl Chunk {
    /// Returns the offset of its first page in bytes.
    pub(super) fn offset(&self) -> u64 {
        u64::from(self.number) * CHUNK as u64
    }

    /// Returns the runs of pages in a mask: offsets within the chunk, in bytes.
    pub(super) fn runs(mask: u16) -> impl Iterator<Item = std::ops::Range<usize>> {
        let is_set = move |page: &usize| mask & (1 << page) != 0;
        let mut page = 0;
        std::iter::from_fn(move || {
            page = (page..CHUNK_PAGES).find(is_set)?;
            let end = (page..CHUNK_PAGES).find(|page| !is_set(page));
            let run = page..end.unwrap_or(CHUNK_PAGES);
            page = run.end;
            Some(run.start * PAGE..run.end * PAGE)
        })
    }
}

/// The pages of a guest's memory that a state stores. The rest is that of its template, or zero if it has none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PageIndex {
    pub(super) chunks: Vec<Chunk>,
}

impl PageIndex {
    /// Returns the number of bytes of stored pages.
    #[must_use]
    pub fn data_bytes(&self) -> u64 {
        let pages: u32 = self
            .chunks
            .iter()
            .map(|chunk| chunk.data.count_ones())
            .sum();
        u64::from(pages) * PAGE as u64
    }

    /// Returns the ranges of whole chunks of which pages are stored, in bytes and in order.
    pub(super) fn chunk_ranges(&self) -> Vec<std::ops::Range<u64>> {
        let mut ranges: Vec<std::ops::Range<u64>> = Vec::new();
        for chunk in &self.chunks {
            let (start, end) = (chunk.offset(), chunk.offset() + CHUNK as u64);
            match ranges.last_mut() {
                Some(last) if last.end == start => last.end = end,
                _ => ranges.push(start..end),
            }
        }
        ranges
    }

    /// Encodes the index for its file.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.chunks.len() * ENTRY);
        for chunk in &self.chunks {
            bytes.extend(chunk.number.to_le_bytes());
            bytes.extend(chunk.data.to_le_bytes());
            bytes.extend(chunk.zeros.to_le_bytes());
            bytes.extend(chunk.checksum.to_le_bytes());
        }
        bytes
    }

    /// Parses and checks the index of a memory with this size.
    ///
    /// # Errors
    /// Returns what is wrong with it.
    pub fn decode(bytes: &[u8], memory_bytes: u64) -> Result<Self, String> {
        let (entries, []) = bytes.as_chunks::<ENTRY>() else {
            return Err(format!(
                "its size, {} bytes, is no multiple of {ENTRY}",
                bytes.len()
            ));
        };
        if memory_bytes > MAX_MEMORY_BYTES || !memory_bytes.is_multiple_of(CHUNK as u64) {
            return Err(format!("the memory cannot have {memory_bytes} bytes"));
        }

        let mut chunks: Vec<Chunk> = Vec::with_capacity(entries.len());
        for entry in entries {
            let chunk = parse(entry);
            let is_after = chunks.last().is_none_or(|last| last.number < chunk.number);
            let is_inside = chunk.offset() < memory_bytes;
            let is_clear = chunk.data & chunk.zeros == 0 && chunk.data | chunk.zeros != 0;
            if !(is_after && is_inside && is_clear) {
                return Err(format!("entry {} is invalid", chunks.len()));
            }
            chunks.push(chunk);
        }
        Ok(Self { chunks })
    }
}

fn parse(entry: &[u8; ENTRY]) -> Chunk {
    let [n0, n1, n2, n3, d0, d1, z0, z1, c0, c1, c2, c3] = *entry;
    Chunk {
        number: u32::from_le_bytes([n0, n1, n2, n3]),
        data: u16::from_le_bytes([d0, d1]),
        zeros: u16::from_le_bytes([z0, z1]),
        checksum: u32::from_le_bytes([c0, c1, c2, c3]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEMORY: u64 = 1 << 20;

    fn chunk(number: u32, data: u16, zeros: u16) -> Chunk {
        Chunk {
            number,
            data,
            zeros,
            checksum: 7,
        }
    }

    #[test]
    fn an_index_is_read_as_it_was_written() {
        let index = PageIndex {
            chunks: vec![
                chunk(0, 1, 0),
                chunk(3, 0b1010, 0b100),
                chunk(15, 0, 0x8000),
            ],
        };
        assert_eq!(
            PageIndex::decode(&index.encode(), MEMORY),
            Ok(index.clone())
        );
        assert_eq!(index.data_bytes(), 3 * PAGE as u64);
        assert_eq!(PageIndex::decode(&[], MEMORY), Ok(PageIndex::default()));
    }

    #[test]
    fn an_invalid_index_is_refused() {
        let wrong = [
            vec![chunk(1, 1, 0), chunk(1, 2, 0)],
            vec![chunk(2, 1, 0), chunk(1, 1, 0)],
            vec![chunk(16, 1, 0)],
            vec![chunk(0, 0, 0)],
            vec![chunk(0, 3, 1)],
        ];
        for chunks in wrong {
            let bytes = PageIndex { chunks }.encode();
            let error = PageIndex::decode(&bytes, MEMORY).unwrap_err();
            assert!(error.contains("is invalid"), "{error}");
        }

        assert!(PageIndex::decode(&[0; ENTRY - 1], MEMORY).is_err());
        assert!(PageIndex::decode(&[], MEMORY + 1).is_err());
        assert!(PageIndex::decode(&[], u64::MAX / CHUNK as u64 * CHUNK as u64).is_err());
    }

    #[test]
    fn runs_of_a_mask() {
        let runs = |mask| Chunk::runs(mask).map(|run| (run.start / PAGE, run.end / PAGE));
        assert_eq!(
            runs(0b1000_0000_0110_0001).collect::<Vec<_>>(),
            [(0, 1), (5, 7), (15, 16)]
        );
        assert_eq!(runs(u16::MAX).collect::<Vec<_>>(), [(0, 16)]);
        assert_eq!(runs(0).count(), 0);
    }
}
