use std::fs::File;
use std::io::{self, Write};
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fumehood_launcher::{IMAGE_VERSION, Mapping, ProcessImage};
use fumehood_sys::host::{MemoryLayout, StopError, StoppedProcess, kernel_mappings, memory_file};

use super::address_space::{AddressSpaceWriter, GuestMapping, PAGES, written_pages};
use super::descriptors::{DescriptorIdentity, read_descriptors};
use super::image_error::ImageError;
use super::saved_file::SavedFile;
use crate::guest_memory::{GuestRange, write_run};

/// How long all threads of a process may take to wait in a system call at the same moment.
const STOP_TIMEOUT: Duration = Duration::from_secs(2);
/// How often that is tried.
const STOP_INTERVAL: Duration = Duration::from_micros(500);

/// The maximum number of bytes that are copied at once.
const COPY_BYTES: usize = 1 << 20;

/// A QEMU that stands still, and what its owner knows about it.
#[derive(Debug, Clone, Copy)]
pub struct ProcessToSave<'a> {
    /// Its process id.
    pub pid: u32,
    /// Where its guest's memory is.
    pub guest_memory: GuestRange,
    /// The descriptors that its owner passed, which each continued process gets anew in this order.
    pub passed: &'a [DescriptorIdentity],
    /// The descriptors that it does not need any more. Continued processes have the null device in their place.
    pub unneeded: &'a [DescriptorIdentity],
    /// The files that it may map besides programs and libraries: the memory that its guest was restored from, or the files
    /// of the image that it continued from. Pages that it has not changed are not copied.
    pub base: &'a [SavedFile],
    /// Files that it may map and that are not available later: their pages are copied.
    pub copied: &'a [SavedFile],
    /// Where continued processes find the guest's memory, in order and without gaps. None = its changed pages are copied
    /// like those of QEMU.
    pub guest: Option<&'a [GuestMapping]>,
}

/// A process image, from which any number of processes continue. Cheap to clone.
#[derive(Debug, Clone)]
pub struct SavedProcess(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    image: ProcessImage,
    /// The image as JSON.
    description: OwnedFd,
    /// Changed pages, and then others.
    files: Vec<SavedFile>,
    guest_memory: GuestRange,
}

impl SavedProcess {
    /// Saves a process, which continues afterwards. Pages that it has changed are written to `pages`.
    ///
    /// # Errors
    /// [`ImageError`].
    pub fn save(process: ProcessToSave<'_>, pages: File) -> Result<Self, ImageError> {
        let ProcessToSave {
            pid,
            guest_memory,
            base,
            copied,
            guest,
            ..
        } = process;
        let mut stopped = stop(pid)?;

        let mut files = vec![SavedFile::new(pages.try_clone()?, None)?];
        files.extend_from_slice(base);

        let threads = stopped.threads()?;
        let signals = stopped.signal_actions()?;
        let layout = memory_layout(pid, stopped.heap_end()?)?;
        let maps = std::fs::read_to_string(format!("/proc/{pid}/maps"))?;
        let mut writer = AddressSpaceWriter {
            memory: stopped.memory(),
            pagemap: File::open(format!("/proc/{pid}/pagemap"))?,
            pages: &pages,
            files,
            copied,
            guest: guest.map(|parts| (guest_memory, guest_layout(guest_memory, parts))),
            written: 0,
        };
        let mappings = writer.copy(&maps)?;
        let files = writer.files;

        let image = ProcessImage {
            version: IMAGE_VERSION,
            mappings,
            written_first: Vec::new(),
            kernel_mappings: kernel_mappings(&maps),
            threads,
            signals,
            descriptors: read_descriptors(pid, process.passed, process.unneeded)?,
            layout,
        };
        Self::new(image, guest_memory, files)
    }

    /// Returns the image with the pages that a process which continued from it has written to so far: later ones get copies
    /// of these pages at once.
    ///
    /// # Errors
    /// [`ImageError`].
    pub fn learn_from(&self, pid: u32) -> Result<Self, ImageError> {
        let pagemap = File::open(format!("/proc/{pid}/pagemap"))?;
        let mut image = self.0.image.clone();
        image.written_first = written_pages(&pagemap, &image.mappings)?;
        Self::new(image, self.0.guest_memory, self.0.files.clone())
    }

    /// Takes an image that was saved earlier, and its files.
    ///
    /// # Errors
    /// [`ImageError`]: it cannot be continued.
    pub fn new(
        image: ProcessImage,
        guest_memory: GuestRange,
        files: Vec<SavedFile>,
    ) -> Result<Self, ImageError> {
        image
            .check(files.len(), usize::MAX)
            .map_err(ImageError::Unsupported)?;
        let text = serde_json::to_vec(&image).map_err(io::Error::from)?;
        let mut description = memory_file("process-image")?;
        description.write_all(&text)?;

        Ok(Self(Arc::new(Inner {
            image,
            description: description.into(),
            files,
            guest_memory,
        })))
    }

    /// Returns the description of the process.
    #[must_use]
    pub fn image(&self) -> &ProcessImage {
        &self.0.image
    }

    /// Returns where the guest's memory is in its processes.
    #[must_use]
    pub fn guest_memory(&self) -> GuestRange {
        self.0.guest_memory
    }

    /// Writes the guest's memory to the same offsets of an empty file, without pages of zeros.
    ///
    /// # Errors
    /// The error of the operating system.
    pub fn copy_guest_memory(&self, to: &File) -> io::Result<()> {
        self.read_guest_memory(
            |_| true,
            |offset, run| write_run(to, run, offset, true).map(drop),
        )
    }

    /// Passes the guest's memory in the files for which `is_wanted` is true to `each`, with its offsets in increasing order.
    ///
    /// # Errors
    /// The error of the operating system or of `each`.
    pub fn read_guest_memory(
        &self,
        is_wanted: impl Fn(&SavedFile) -> bool,
        mut each: impl FnMut(u64, &[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut buffer = vec![0; COPY_BYTES];
        for (range, mapping, file) in self.guest_mappings() {
            if !is_wanted(file) {
                continue;
            }

            let file = file.try_clone()?;
            let mut at = range.start;
            while at < range.end {
                let size =
                    usize::try_from(range.end - at).map_or(COPY_BYTES, |left| left.min(COPY_BYTES));
                let part = &mut buffer[..size];
                file.read_exact_at(part, mapping.offset + (at - mapping.address))?;
                each(at - self.0.guest_memory.start, part)?;
                at += size as u64;
            }
        }
        Ok(())
    }

    /// Returns the ranges of the guest's memory, as offsets, that are in files for which `is_wanted` is true.
    #[must_use]
    pub fn guest_ranges(&self, is_wanted: impl Fn(&SavedFile) -> bool) -> Vec<Range<u64>> {
        let start = self.0.guest_memory.start;
        let wanted = self.guest_mappings().filter(|(_, _, file)| is_wanted(file));
        wanted
            .map(|(range, ..)| range.start - start..range.end - start)
            .collect()
    }

    /// Returns the mappings of the guest's memory that have a file, with the part of their addresses that is the guest's.
    /// Memory of no file is empty.
    fn guest_mappings(&self) -> impl Iterator<Item = (Range<u64>, &Mapping, &SavedFile)> {
        let guest = self.0.guest_memory;
        self.0.image.mappings.iter().filter_map(move |mapping| {
            let range = mapping.address.max(guest.start)..mapping.end().min(guest.end());
            let file = &self.0.files[mapping.file?];
            (range.start < range.end).then_some((range, mapping, file))
        })
    }

    /// Returns the files that its mappings refer to: changed pages, and then others.
    #[must_use]
    pub fn files(&self) -> &[SavedFile] {
        &self.0.files
    }

    /// Returns the memory or disk space that its changed pages take, in bytes.
    #[must_use]
    pub fn changed_bytes(&self) -> u64 {
        const BLOCK: u64 = 512;
        let pages = rustix::fs::fstat(&self.0.files[PAGES].file);
        pages.map_or(0, |status| status.st_blocks.cast_unsigned() * BLOCK)
    }

    pub(crate) fn description(&self) -> &OwnedFd {
        &self.0.description
    }

    pub(crate) fn file_descriptors(&self) -> impl Iterator<Item = &OwnedFd> {
        self.0.files.iter().map(|file| &*file.file)
    }
}

/// Returns the mappings in place of a guest's memory. The files of the base come after that of the changed pages.
fn guest_layout(range: GuestRange, parts: &[GuestMapping]) -> Vec<Mapping> {
    const READ_AND_WRITE: u32 = 3;
    let mapping = |part: &GuestMapping| Mapping {
        address: range.start + part.offset,
        bytes: part.bytes,
        protection: READ_AND_WRITE,
        file: part.file.map(|index| PAGES + 1 + index),
        offset: part.file.map_or(0, |_| part.offset),
    };
    parts.iter().map(mapping).collect()
}

/// Stops a process as soon as all of its threads wait.
fn stop(pid: u32) -> Result<StoppedProcess, StopError> {
    let start = Instant::now();
    loop {
        match StoppedProcess::stop(pid) {
            Err(StopError::Busy { .. }) if start.elapsed() < STOP_TIMEOUT => {
                std::thread::sleep(STOP_INTERVAL);
            }
            other => return other,
        }
    }
}

/// Reads the addresses that the kernel records about a process.
fn memory_layout(pid: u32, heap_end: u64) -> io::Result<MemoryLayout> {
    /// The fields of `/proc/PID/stat` after its name, which start with number 3.
    const FIRST: usize = 3;

    let text = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let unreadable = || io::Error::other(format!("/proc/{pid}/stat has unknown contents"));
    let (_, fields) = text.rsplit_once(')').ok_or_else(unreadable)?;
    let fields: Vec<&str> = fields.split_ascii_whitespace().collect();
    let field = |number: usize| {
        let text = fields.get(number - FIRST).ok_or_else(unreadable)?;
        text.parse::<u64>().map_err(|_| unreadable())
    };

    // Code, data, heap, stack, arguments, environment: see proc(5).
    let (code, data, heap) = (
        [field(26)?, field(27)?],
        [field(45)?, field(46)?],
        field(47)?,
    );
    let (stack, texts) = (field(28)?, [field(48)?, field(49)?, field(50)?, field(51)?]);
    let [arguments, arguments_end, environment, environment_end] = texts;
    Ok([
        code[0],
        code[1],
        data[0],
        data[1],
        heap,
        heap_end,
        stack,
        arguments,
        arguments_end,
        environment,
        environment_end,
    ])
}
