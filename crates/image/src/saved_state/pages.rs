//! The file of stored pages: writing those that differ from the template, and reading them back.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use rustix::fs::{FallocateFlags, fallocate};

use super::format::{CHUNK, CHUNK_PAGES, PAGE};
use super::index::{Chunk, PageIndex};
use crate::sparse::copy_sparse;

const ZEROS: [u8; PAGE] = [0; PAGE];

/// Writes the pages of a guest's memory that differ from its template.
#[derive(Debug)]
pub struct PageWriter<'a> {
    memory: &'a File,
    template: Option<&'a File>,
    /// Whether a chunk is stored as a whole if one of its pages is.
    whole_chunks: bool,
    index: PageIndex,
    /// The chunk that is being filled: pages that were pushed, with a bit for each.
    number: Option<u32>,
    pushed: u16,
    pages: Box<[u8; CHUNK]>,
    of_template: Box<[u8; CHUNK]>,
}

impl<'a> PageWriter<'a> {
    /// Writes to an empty file, whose size is that of the memory. `template` is the memory that the guest was restored
    /// from; without one, only pages of zeros are left out.
    /// With `whole_chunks`, all pages of 64 KiB are stored if one is: fewer and longer ranges are then to be mapped.
    pub(super) fn new(memory: &'a File, template: Option<&'a File>, whole_chunks: bool) -> Self {
        Self {
            memory,
            template,
            whole_chunks,
            index: PageIndex::default(),
            number: None,
            pushed: 0,
            pages: Box::new([0; CHUNK]),
            of_template: Box::new([0; CHUNK]),
        }
    }

    /// Takes whole pages that may differ from the template. `offset` is where they are in the guest's memory; it must not
    /// decrease from call to call.
    ///
    /// # Errors
    /// The error of the operating system, and [`io::ErrorKind::InvalidInput`] for other offsets or sizes.
    pub fn push(&mut self, offset: u64, run: &[u8]) -> io::Result<()> {
        let (pages, []) = run.as_chunks::<PAGE>() else {
            return Err(io::ErrorKind::InvalidInput.into());
        };

        for (page, at) in pages.iter().zip((offset..).step_by(PAGE)) {
            let number = u32::try_from(at / CHUNK as u64).map_err(io::Error::other)?;
            let start = usize::try_from(at % CHUNK as u64).map_err(io::Error::other)?;
            let is_before = self.number.is_some_and(|last| number < last);
            if is_before || start % PAGE != 0 {
                return Err(io::ErrorKind::InvalidInput.into());
            }
            if self.number != Some(number) {
                self.write_chunk()?;
                self.number = Some(number);
            }
            self.pages[start..start + PAGE].copy_from_slice(page);
            self.pushed |= 1 << (start / PAGE);
        }
        Ok(())
    }

    /// Writes the last pages; returns the index of all.
    pub(super) fn finish(mut self) -> io::Result<PageIndex> {
        self.write_chunk()?;
        Ok(self.index)
    }

    fn write_chunk(&mut self) -> io::Result<()> {
        let (Some(number), pushed) = (self.number, std::mem::take(&mut self.pushed)) else {
            return Ok(());
        };
        let mut chunk = Chunk {
            number,
            data: 0,
            zeros: 0,
            checksum: 0,
        };
        if let Some(template) = self.template {
            read_to_end_of_file(template, &mut self.of_template[..], chunk.offset())?;
        }

        // Leave out pages that the template has.
        for page in (0..CHUNK_PAGES).filter(|page| pushed & (1 << page) != 0) {
            let range = page * PAGE..(page + 1) * PAGE;
            let contents = &self.pages[range.clone()];
            if *contents == self.of_template[range] {
                continue;
            }
            let mask = if *contents == ZEROS {
                &mut chunk.zeros
            } else {
                &mut chunk.data
            };
            *mask |= 1 << page;
        }
        if chunk.data | chunk.zeros == 0 {
            return Ok(());
        }
        if self.whole_chunks {
            self.add_pages_of_template(&mut chunk, pushed);
        }

        for run in Chunk::runs(chunk.data) {
            let contents = &self.pages[run.clone()];
            chunk.checksum = crc32c::crc32c_append(chunk.checksum, contents);
            let offset = chunk.offset() + run.start as u64;
            self.memory.write_all_at(contents, offset)?;
        }
        self.index.chunks.push(chunk);
        Ok(())
    }
}

impl PageWriter<'_> {
    /// Adds the pages of the template that a chunk does not have. Pages of zeros are holes.
    fn add_pages_of_template(&mut self, chunk: &mut Chunk, pushed: u16) {
        for page in 0..CHUNK_PAGES {
            let (bit, range) = (1 << page, page * PAGE..(page + 1) * PAGE);
            if (chunk.data | chunk.zeros) & bit != 0 {
                continue;
            }
            if pushed & bit == 0 {
                self.pages[range.clone()].copy_from_slice(&self.of_template[range.clone()]);
            }
            if self.pages[range] != ZEROS {
                chunk.data |= bit;
            }
        }
    }
}

/// Reads until the buffer is full; bytes past the end of the file are zeros.
fn read_to_end_of_file(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<()> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    buffer[filled..].fill(0);
    Ok(())
}

/// Why stored pages could not be read.
#[derive(Debug)]
pub(super) enum PageError {
    /// The file has other contents than were written; the value is the offset of the chunk.
    Checksum(u64),
    /// The file cannot be read.
    Read(io::Error),
    /// The target cannot be written.
    Write(io::Error),
}

/// Writes a guest's memory to an empty file: the template, and the stored pages over it. Each page is checked before it is
/// written.
pub(super) fn fill(
    index: &PageIndex,
    memory: &File,
    template: Option<&File>,
    memory_bytes: u64,
    to: &File,
) -> Result<(), PageError> {
    if let Some(template) = template {
        copy_sparse(template, to).map_err(|error| PageError::Write(io::Error::other(error)))?;
    }
    to.set_len(memory_bytes).map_err(PageError::Write)?;

    let mut pages = vec![0; CHUNK];
    for chunk in &index.chunks {
        read_chunk(chunk, memory, &mut pages)?;
        for run in Chunk::runs(chunk.data) {
            let offset = chunk.offset() + run.start as u64;
            to.write_all_at(&pages[run], offset)
                .map_err(PageError::Write)?;
        }
        for run in Chunk::runs(chunk.zeros) {
            let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            let offset = chunk.offset() + run.start as u64;
            fallocate(to, flags, offset, run.len() as u64)
                .map_err(|error| PageError::Write(error.into()))?;
        }
    }
    Ok(())
}

/// Compares all stored pages with their checksums.
pub(super) fn verify(index: &PageIndex, memory: &File) -> Result<(), PageError> {
    let mut pages = vec![0; CHUNK];
    index
        .chunks
        .iter()
        .try_for_each(|chunk| read_chunk(chunk, memory, &mut pages))
}

/// Reads the stored pages of a chunk to their places in `pages`.
fn read_chunk(chunk: &Chunk, memory: &File, pages: &mut [u8]) -> Result<(), PageError> {
    let mut checksum = 0;
    for run in Chunk::runs(chunk.data) {
        let pages = &mut pages[run.clone()];
        memory
            .read_exact_at(pages, chunk.offset() + run.start as u64)
            .map_err(PageError::Read)?;
        checksum = crc32c::crc32c_append(checksum, pages);
    }
    if checksum == chunk.checksum {
        Ok(())
    } else {
        Err(PageError::Checksum(chunk.offset()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sparse::data_bytes;

    const BYTES: u64 = 4 * CHUNK as u64;

    fn file(pages: &[(u64, u8)]) -> File {
        let file = tempfile::tempfile().unwrap();
        file.set_len(BYTES).unwrap();
        for (page, byte) in pages {
            file.write_all_at(&[*byte; PAGE], page * PAGE as u64)
                .unwrap();
        }
        file
    }

    fn contents(file: &File) -> Vec<u8> {
        let mut all = vec![0; usize::try_from(BYTES).unwrap()];
        file.read_exact_at(&mut all, 0).unwrap();
        all
    }

    fn written(template: Option<&File>, guest: &File, whole_chunks: bool) -> (File, PageIndex) {
        let memory = file(&[]);
        let mut writer = PageWriter::new(&memory, template, whole_chunks);
        writer.push(0, &contents(guest)).unwrap();
        let index = writer.finish().unwrap();
        (memory, index)
    }

    #[test]
    fn only_pages_that_differ_from_the_template_are_stored_and_all_come_back() {
        let template = file(&[(0, 1), (5, 2), (17, 3), (40, 4)]);
        // Page 5 became zero, page 17 changed, page 30 is new.
        let guest = file(&[(0, 1), (17, 9), (30, 8), (40, 4)]);
        let (memory, index) = written(Some(&template), &guest, false);
        assert_eq!(index.data_bytes(), 2 * PAGE as u64);
        assert!(data_bytes(&memory).unwrap() <= 2 * PAGE as u64);

        let restored = tempfile::tempfile().unwrap();
        fill(&index, &memory, Some(&template), BYTES, &restored).unwrap();
        assert!(contents(&restored) == contents(&guest));
        verify(&index, &memory).unwrap();
    }

    #[test]
    fn whole_chunks_contain_everything_but_zeros() {
        let template = file(&[(0, 1), (5, 2), (17, 3), (40, 4)]);
        let guest = file(&[(0, 1), (17, 9), (30, 8), (40, 4)]);
        let (memory, index) = written(Some(&template), &guest, true);
        // Page 0 of the template is stored, because page 5 has changed. The chunk of page 40 has not.
        assert_eq!(index.data_bytes(), 3 * PAGE as u64);
        let (stored, chunks) = (contents(&memory), 2 * CHUNK);
        assert!(stored[..chunks] == contents(&guest)[..chunks]);

        let restored = tempfile::tempfile().unwrap();
        fill(&index, &memory, Some(&template), BYTES, &restored).unwrap();
        assert!(contents(&restored) == contents(&guest));
    }

    #[test]
    fn without_a_template_pages_of_zeros_are_not_stored() {
        let guest = file(&[(3, 1), (60, 2)]);
        let (memory, index) = written(None, &guest, false);
        assert_eq!(index.data_bytes(), 2 * PAGE as u64);

        let restored = tempfile::tempfile().unwrap();
        fill(&index, &memory, None, BYTES, &restored).unwrap();
        assert!(contents(&restored) == contents(&guest));
    }

    #[test]
    fn changed_and_truncated_pages_are_found() {
        let guest = file(&[(3, 1), (60, 2)]);
        let (memory, index) = written(None, &guest, false);
        memory.write_all_at(&[7], 60 * PAGE as u64 + 100).unwrap();
        let found = verify(&index, &memory).unwrap_err();
        assert!(matches!(found, PageError::Checksum(at) if at == 3 * CHUNK as u64));

        memory.set_len(60 * PAGE as u64 + 100).unwrap();
        let found = verify(&index, &memory).unwrap_err();
        assert!(matches!(found, PageError::Read(_)), "{found:?}");
    }

    #[test]
    fn pages_must_come_in_order_and_whole() {
        let memory = file(&[]);
        let mut writer = PageWriter::new(&memory, None, false);
        writer.push(CHUNK as u64, &[1; PAGE]).unwrap();
        for (offset, bytes) in [(0, PAGE), (2 * CHUNK as u64, 5), (CHUNK as u64 + 1, PAGE)] {
            let error = writer.push(offset, &vec![1; bytes]).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        }
    }
}
