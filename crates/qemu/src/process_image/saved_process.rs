use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fumehood_launcher::{IMAGE_VERSION, ProcessImage};
use fumehood_sys::host::{MemoryLayout, StopError, StoppedProcess, kernel_mappings, memory_file};

use super::address_space::AddressSpaceWriter;
use super::descriptors::{DescriptorIdentity, read_descriptors};
use crate::guest_memory::{GuestMemory, MemoryError};

/// How long all threads of a process may take to wait in a system call at the same moment.
const STOP_TIMEOUT: Duration = Duration::from_secs(2);
/// How often that is tried.
const STOP_INTERVAL: Duration = Duration::from_micros(500);

/// Why a process was not saved as an image.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// It has something that a new process cannot get.
    #[error("QEMU cannot be saved as a process image: {0}")]
    Unsupported(String),
    /// It could not be stopped or read.
    #[error("cannot read the QEMU process: {0}")]
    Stop(#[from] StopError),
    /// The guest's memory was not found.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// The error of the operating system.
    #[error("cannot save QEMU as a process image: {0}")]
    Io(#[from] io::Error),
}

/// A file that the processes of an image map.
#[derive(Debug, Clone)]
pub struct SavedFile {
    pub(super) file: Arc<OwnedFd>,
    /// The path of a program or library; none for a file that belongs to an image.
    pub path: Option<PathBuf>,
    pub(super) inode: u64,
    pub(super) device: (u32, u32),
}

/// A QEMU that stands still, and what its owner knows about it.
#[derive(Debug, Clone, Copy)]
pub struct ProcessToSave<'a> {
    /// Its process id.
    pub pid: u32,
    /// The size of its guest's memory, in bytes.
    pub memory_bytes: u64,
    /// The descriptors that its owner passed, which each continued process gets anew in this order.
    pub passed: &'a [DescriptorIdentity],
    /// The image that it continued from, if it did.
    pub base: Option<&'a SavedProcess>,
}

/// A process image, from which any number of processes continue. Cheap to clone.
#[derive(Debug, Clone)]
pub struct SavedProcess(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    image: ProcessImage,
    /// The image as JSON.
    description: OwnedFd,
    /// The guest's memory, changed pages, and then others.
    files: Vec<SavedFile>,
}

impl SavedFile {
    /// Returns a duplicate of its descriptor.
    ///
    /// # Errors
    /// The error of the operating system.
    pub fn try_clone(&self) -> io::Result<File> {
        self.file.try_clone().map(File::from)
    }
}

impl SavedProcess {
    /// Saves a process, which continues afterwards. The guest's memory is saved by the caller, who passes the file: `ram`.
    /// Changed pages of QEMU itself are written to `pages`.
    ///
    /// # Errors
    /// [`ImageError`].
    pub fn save(process: ProcessToSave<'_>, ram: File, pages: File) -> Result<Self, ImageError> {
        let ProcessToSave {
            pid,
            memory_bytes,
            passed,
            base,
        } = process;
        let guest_memory = GuestMemory::open(pid, memory_bytes)?.range();
        let mut stopped = stop(pid)?;

        let mut files = vec![
            SavedFile::new(ram, None)?,
            SavedFile::new(pages.try_clone()?, None)?,
        ];
        files.extend(
            base.iter()
                .flat_map(|base| base.0.files.iter().skip(1).cloned()),
        );

        let threads = stopped.threads()?;
        let signals = stopped.signal_actions()?;
        let layout = memory_layout(pid, stopped.heap_end()?)?;
        let maps = std::fs::read_to_string(format!("/proc/{pid}/maps"))?;
        let mut writer = AddressSpaceWriter {
            memory: stopped.memory(),
            pagemap: File::open(format!("/proc/{pid}/pagemap"))?,
            is_continued: base.is_some(),
            guest_memory,
            pages: &pages,
            files,
            written: 0,
        };
        let mappings = writer.copy(&maps)?;
        let files = writer.files;

        let image = ProcessImage {
            version: IMAGE_VERSION,
            mappings,
            kernel_mappings: kernel_mappings(&maps),
            threads,
            signals,
            descriptors: read_descriptors(pid, passed)?,
            layout,
        };
        Self::new(image, files)
    }

    /// Takes an image that was saved earlier, and its files.
    ///
    /// # Errors
    /// [`ImageError`]: it cannot be continued.
    pub fn new(image: ProcessImage, files: Vec<SavedFile>) -> Result<Self, ImageError> {
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
        })))
    }

    /// Returns the description of the process.
    #[must_use]
    pub fn image(&self) -> &ProcessImage {
        &self.0.image
    }

    /// Returns the files that its mappings refer to.
    #[must_use]
    pub fn files(&self) -> &[SavedFile] {
        &self.0.files
    }

    pub(crate) fn description(&self) -> &OwnedFd {
        &self.0.description
    }

    pub(crate) fn file_descriptors(&self) -> impl Iterator<Item = &OwnedFd> {
        self.0.files.iter().map(|file| &*file.file)
    }
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
