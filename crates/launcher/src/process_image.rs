use std::os::fd::RawFd;

use fumehood_sys::host::{
    CONTINUATION_BYTES, CONTINUATION_START, KernelMapping, MemoryLayout, SignalAction, ThreadState,
};
use serde::{Deserialize, Serialize};

/// The version of [`ProcessImage`], and of how a launcher continues it. Images of another version are not used.
pub const IMAGE_VERSION: u32 = 1;

/// The maximum size of a process image's description, in bytes. A description of a QEMU takes some tens of KiB.
pub const MAX_IMAGE_BYTES: usize = 4 << 20;

/// The maximum number of descriptors of an image.
pub const MAX_IMAGE_DESCRIPTORS: i32 = 512;

/// A stopped process, from which new processes continue. The pages of its memory are in files beside this description.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessImage {
    /// The version: [`IMAGE_VERSION`].
    pub version: u32,
    /// Its memory, in ascending order.
    pub mappings: Vec<Mapping>,
    /// Ranges of its memory that continued processes write to soon: addresses and sizes in bytes. Copying their pages at
    /// once costs less than a fault for each.
    pub written_first: Vec<(u64, u64)>,
    /// The mappings that the kernel added to it.
    pub kernel_mappings: Vec<KernelMapping>,
    /// Its threads; the first one is the main thread.
    pub threads: Vec<ThreadState>,
    /// Signals that it does not handle by default.
    pub signals: Vec<SignalAction>,
    /// Its descriptors.
    pub descriptors: Vec<Descriptor>,
    /// The addresses that the kernel records about its memory.
    pub layout: MemoryLayout,
}

/// A part of the memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mapping {
    /// The first address.
    pub address: u64,
    /// The size in bytes.
    pub bytes: u64,
    /// The bits of `PROT_READ`, `PROT_WRITE` and `PROT_EXEC`.
    pub protection: u32,
    /// The file that is mapped privately, by its index; none = empty memory.
    pub file: Option<usize>,
    /// The offset in the file, in bytes.
    pub offset: u64,
}

impl Mapping {
    /// Returns the first address after it.
    #[must_use]
    pub const fn end(&self) -> u64 {
        self.address.saturating_add(self.bytes)
    }
}

/// A descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Descriptor {
    /// Its number.
    pub number: RawFd,
    /// Whether reads and writes return instead of waiting.
    pub nonblocking: bool,
    /// What it refers to.
    pub kind: DescriptorKind,
}

/// What a descriptor refers to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum DescriptorKind {
    /// What the owner passes, by its index in [`Continue::descriptors`](crate::ContinueSpec::descriptors).
    Passed(usize),
    /// The null device.
    Null,
    /// A counter of events with this value.
    EventFd(u32),
    /// Signals of this set, one bit each.
    SignalFd(u64),
    /// A set of descriptors to wait for, which is empty.
    Epoll,
}

impl ProcessImage {
    /// Checks that the image can be continued with this many files and passed descriptors.
    ///
    /// # Errors
    /// A message.
    pub fn check(&self, files: usize, passed: usize) -> Result<(), String> {
        if self.version != IMAGE_VERSION {
            return Err(format!(
                "process image of version {}, not {IMAGE_VERSION}",
                self.version
            ));
        }
        if self.threads.is_empty() {
            return Err("process image without threads".into());
        }

        let mut end = 0;
        for mapping in &self.mappings {
            check_mapping(mapping, end, files)?;
            end = mapping.end();
        }

        for (address, bytes) in &self.written_first {
            let range = Mapping {
                address: *address,
                bytes: *bytes,
                protection: 3,
                file: None,
                offset: 0,
            };
            check_mapping(&range, 0, files)?;
        }

        for (at, descriptor) in self.descriptors.iter().enumerate() {
            let is_first = self.descriptors[..at]
                .iter()
                .all(|d| d.number != descriptor.number);
            let is_passed = match descriptor.kind {
                DescriptorKind::Passed(index) => index < passed,
                _ => true,
            };
            // The standard streams are not part of an image.
            if !(3..MAX_IMAGE_DESCRIPTORS).contains(&descriptor.number) || !is_first || !is_passed {
                return Err(format!(
                    "process image with an invalid descriptor: {descriptor:?}"
                ));
            }
        }
        Ok(())
    }
}

/// Checks one mapping; the one before it ends at `previous_end`.
fn check_mapping(mapping: &Mapping, previous_end: u64, files: usize) -> Result<(), String> {
    /// Below, the kernel maps nothing for programs.
    const FIRST_ADDRESS: u64 = 0x1_0000;
    const ADDRESSES_END: u64 = 0x7fff_ffff_f000;
    const PAGE: u64 = 4096;

    let Mapping {
        address,
        bytes,
        protection,
        file,
        offset,
    } = *mapping;
    let is_aligned = [address, bytes, offset].iter().all(|n| n % PAGE == 0);
    let is_inside = bytes > 0
        && address >= previous_end.max(FIRST_ADDRESS)
        && address
            .checked_add(bytes)
            .is_some_and(|end| end <= ADDRESSES_END);
    let overlaps_continuation =
        address < CONTINUATION_START + CONTINUATION_BYTES && mapping.end() > CONTINUATION_START;
    let is_valid = protection <= 7 && file.is_none_or(|file| file < files);

    if is_aligned && is_inside && is_valid && !overlaps_continuation {
        Ok(())
    } else {
        Err(format!(
            "process image with an invalid mapping: {mapping:x?}"
        ))
    }
}
