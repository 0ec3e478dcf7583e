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
    /// The kind of file.
    pub kind: DescriptorKind,
}

/// The kind of file that a descriptor refers to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum DescriptorKind {
    /// A descriptor that the owner passes, by its index in [`Continue::descriptors`](crate::ContinueSpec::descriptors).
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

        // They are moved to their addresses while the steps of the continuation run.
        for KernelMapping { address, bytes, .. } in &self.kernel_mappings {
            let mapping = Mapping {
                address: *address,
                bytes: *bytes,
                protection: 0,
                file: None,
                offset: 0,
            };
            check_mapping(&mapping, 0, files)?;
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

#[cfg(test)]
mod tests {
    use super::*;

    const FILES: usize = 2;
    const PASSED: usize = 3;

    fn image() -> ProcessImage {
        let mapping = Mapping {
            address: 0x40_0000,
            bytes: 0x2000,
            protection: 3,
            file: Some(1),
            offset: 0x1000,
        };
        let thread = serde_json::json!({
            "registers": {
                "general": vec![0; 16],
                "instruction": 0,
                "flags": 0,
                "segments": [0, 0],
                "thread_pointer": 0,
            },
            "clear_on_exit": 0,
            "robust_list": [0, 0],
            "restartable_sequences": { "address": 0, "bytes": 0, "signature": 0 },
            "signal_mask": 0,
            "floating_point_control": 0,
            "vector_control": 0,
            "name": "",
        });
        ProcessImage {
            version: IMAGE_VERSION,
            mappings: vec![
                mapping,
                Mapping {
                    address: 0x7000_0000_0000,
                    file: None,
                    offset: 0,
                    ..mapping
                },
            ],
            written_first: vec![(0x40_1000, 0x1000)],
            kernel_mappings: vec![KernelMapping {
                name: "[vdso]".into(),
                address: 0x7fff_0000_0000,
                bytes: 0x2000,
            }],
            threads: vec![serde_json::from_value(thread).unwrap()],
            signals: Vec::new(),
            descriptors: vec![Descriptor {
                number: 3,
                nonblocking: false,
                kind: DescriptorKind::Passed(2),
            }],
            layout: [0; 11],
        }
    }

    #[test]
    fn a_valid_image_is_accepted_as_often_as_it_is_stored() {
        let image = image();
        assert_eq!(image.check(FILES, PASSED), Ok(()));
        let text = serde_json::to_vec(&image).unwrap();
        assert_eq!(
            serde_json::from_slice::<ProcessImage>(&text).unwrap(),
            image
        );
    }

    #[test]
    fn an_image_that_cannot_be_continued_is_refused() {
        type Change = fn(&mut ProcessImage);
        let changes: [(&str, Change); 19] = [
            ("version", |i| i.version += 1),
            ("no threads", |i| i.threads.clear()),
            ("unaligned", |i| i.mappings[0].address += 1),
            ("unaligned size", |i| i.mappings[0].bytes += 1),
            ("unaligned offset", |i| i.mappings[0].offset += 1),
            ("empty", |i| i.mappings[0].bytes = 0),
            ("first page", |i| i.mappings[0].address = 0),
            ("order", |i| i.mappings.swap(0, 1)),
            ("overlap", |i| i.mappings[1] = i.mappings[0]),
            ("above", |i| i.mappings[1].address = 0x7fff_ffff_f000),
            ("overflow", |i| i.mappings[1].bytes = u64::MAX - 0xfff),
            ("protection", |i| i.mappings[0].protection = 8),
            ("file", |i| i.mappings[0].file = Some(FILES)),
            ("continuation", |i| {
                i.mappings[0].address = CONTINUATION_START - 0x1000;
            }),
            ("end of the continuation", |i| {
                i.mappings[0].address = CONTINUATION_START + CONTINUATION_BYTES - 0x1000;
            }),
            ("written first", |i| {
                i.written_first[0].0 = CONTINUATION_START
            }),
            ("kernel", |i| {
                i.kernel_mappings[0].address = CONTINUATION_START
            }),
            ("passed", |i| {
                i.descriptors[0].kind = DescriptorKind::Passed(PASSED);
            }),
            ("twice", |i| i.descriptors.push(i.descriptors[0])),
        ];
        for (name, change) in changes {
            let mut image = image();
            change(&mut image);
            assert!(image.check(FILES, PASSED).is_err(), "{name}");
        }

        for number in [-1, 0, 2, MAX_IMAGE_DESCRIPTORS, i32::MAX] {
            let mut image = image();
            image.descriptors[0].number = number;
            assert!(image.check(FILES, PASSED).is_err(), "{number}");
        }
    }
}
