use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use fumehood_launcher::Mapping;
use fumehood_sys::host::{CONTINUATION_BYTES, CONTINUATION_START};

use super::image_error::ImageError;
use super::saved_file::SavedFile;
use crate::guest_memory::{GuestRange, PAGE, is_private, read_pagemap};

/// The index of the file with changed pages.
pub(super) const PAGES: usize = 0;
/// The size of a page, in bytes.
const PAGE_BYTES: u64 = PAGE as u64;
/// Fewer unchanged pages than this between two changed ones are copied as well: a mapping costs more than they do.
const MAX_GAP: usize = 16;
/// The maximum number of pages that are copied at once: 1 MiB.
const MAX_RUN: usize = 256;
/// How far the stack of the main thread may grow, in bytes, as by the usual limit. The kernel does not grow copies.
const STACK_BYTES: u64 = 8 << 20;
/// Free memory that stays below the stack, in bytes.
const STACK_GAP: u64 = 1 << 20;

/// A line of `/proc/PID/maps`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Area {
    start: u64,
    end: u64,
    protection: u32,
    is_shared: bool,
    offset: u64,
    device: (u32, u32),
    inode: u64,
    name: String,
}

impl Area {
    /// Parses a line; none if it is not one.
    fn parse(line: &str) -> Option<Self> {
        let mut words = line.split_ascii_whitespace();
        let (start, end) = words.next()?.split_once('-')?;
        let permissions = words.next()?;
        let offset = words.next()?;
        let (major, minor) = words.next()?.split_once(':')?;
        let inode = words.next()?.parse().ok()?;
        // Names may contain spaces.
        let name = words.collect::<Vec<_>>().join(" ");

        let hexadecimal = |text| u64::from_str_radix(text, 16).ok();
        let device_number = |text| u32::from_str_radix(text, 16).ok();
        let bit = |letter: char, bit: u32| if permissions.contains(letter) { bit } else { 0 };
        Some(Self {
            start: hexadecimal(start)?,
            end: hexadecimal(end)?,
            protection: bit('r', 1) | bit('w', 2) | bit('x', 4),
            is_shared: permissions.contains('s'),
            offset: hexadecimal(offset)?,
            device: (device_number(major)?, device_number(minor)?),
            inode,
            name,
        })
    }

    /// Mappings of the kernel are not copied: each process has its own.
    fn is_of_kernel(&self) -> bool {
        self.name.starts_with("[vvar") || matches!(&*self.name, "[vdso]" | "[vsyscall]")
    }

    /// The area in which a continuation is prepared; each continuation has a new one. A QEMU that was
    /// executed has nothing there: it is loaded and allocates elsewhere.
    const fn is_of_continuation(&self) -> bool {
        self.start >= CONTINUATION_START && self.end <= CONTINUATION_START + CONTINUATION_BYTES
    }

    /// Returns the part of it between two addresses.
    fn part(&self, start: u64, end: u64) -> Option<Self> {
        let (start, end) = (start.max(self.start), end.min(self.end));
        (start < end).then(|| Self {
            start,
            end,
            offset: self.offset + (start - self.start),
            ..self.clone()
        })
    }
}

/// A part of a guest's memory that continued processes map from a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GuestMapping {
    /// The offset in the guest's memory and in the file, in bytes.
    pub offset: u64,
    /// The size in bytes.
    pub bytes: u64,
    /// The index among the files of [`ProcessToSave::base`](super::ProcessToSave::base); none = empty memory.
    pub file: Option<usize>,
}

/// Copies the memory of a stopped process: pages that it has changed to a file, others by reference to their files.
#[derive(Debug)]
pub(super) struct AddressSpaceWriter<'a> {
    /// The memory of the process.
    pub(super) memory: &'a File,
    /// Its `/proc/PID/pagemap`.
    pub(super) pagemap: File,
    /// The file for changed pages: file 0.
    pub(super) pages: &'a File,
    /// All files, by their indexes.
    pub(super) files: Vec<SavedFile>,
    /// Files that are not available later: all of their pages are copied.
    pub(super) copied: &'a [SavedFile],
    /// The files that are mapped in place of the guest's memory, if that is saved elsewhere.
    pub(super) guest: Option<(GuestRange, Vec<Mapping>)>,
    /// Size of the changed pages so far, in bytes.
    pub(super) written: u64,
}

impl AddressSpaceWriter<'_> {
    /// Copies everything in the text of `/proc/PID/maps`.
    pub(super) fn copy(&mut self, maps: &str) -> Result<Vec<Mapping>, ImageError> {
        let mut mappings: Vec<Mapping> = Vec::new();
        for line in maps.lines() {
            let unreadable = || ImageError::Unsupported(format!("unknown mapping: {line}"));
            let area = Area::parse(line).ok_or_else(unreadable)?;
            if area.is_of_kernel() || area.is_of_continuation() {
                continue;
            }
            if area.name == "[stack]" {
                let previous = mappings.last().map_or(0, Mapping::end);
                mappings.extend(room_for_stack(&area, previous));
            }
            self.copy_around_guest(&area, &mut mappings)?;
        }
        Ok(mappings)
    }

    /// Copies an area without the part of it that is the guest's, if that is saved elsewhere.
    fn copy_around_guest(
        &mut self,
        area: &Area,
        mappings: &mut Vec<Mapping>,
    ) -> Result<(), ImageError> {
        let Some((range, _)) = self.guest else {
            return self.copy_area(area, mappings);
        };

        if let Some(before) = area.part(0, range.start) {
            self.copy_area(&before, mappings)?;
        }
        if area.part(range.start, range.end()).is_some()
            && let Some((_, guest)) = &mut self.guest
        {
            // Once, where the first part of it is.
            mappings.append(guest);
        }
        match area.part(range.end(), u64::MAX) {
            Some(after) => self.copy_area(&after, mappings),
            None => Ok(()),
        }
    }

    fn copy_area(&mut self, area: &Area, mappings: &mut Vec<Mapping>) -> Result<(), ImageError> {
        if area.is_shared {
            return Err(ImageError::Unsupported(format!(
                "shared memory: {}",
                area.name
            )));
        }

        let is_copied = area.inode != 0 && self.copied.iter().any(|file| is_of(area, file));
        let file = match area.inode {
            0 => None,
            _ if is_copied => None,
            _ => Some(self.find_file(area)?),
        };
        let changed = self.changed_pages(area, file.is_none(), is_copied)?;

        // Runs of changed pages alternate with runs of unchanged ones.
        let mut page = 0;
        while page < changed.len() {
            let is_changed = changed[page];
            let same = changed[page..]
                .iter()
                .take_while(|other| **other == is_changed);
            let pages = same.count();
            let address = area.start + page as u64 * PAGE_BYTES;
            let bytes = pages as u64 * PAGE_BYTES;

            let (file, offset) = if is_changed {
                let offset = self.written;
                self.copy_pages(address, bytes)?;
                (Some(PAGES), offset)
            } else {
                let offset = area.offset + page as u64 * PAGE_BYTES;
                (file, file.map_or(0, |_| offset))
            };
            mappings.push(Mapping {
                address,
                bytes,
                protection: area.protection,
                file,
                offset,
            });
            page += pages;
        }
        Ok(())
    }

    /// Returns for each page whether it must be copied: if it is private, or all of them are. Zeros in memory of no file
    /// need not.
    fn changed_pages(
        &self,
        area: &Area,
        is_empty_elsewhere: bool,
        all: bool,
    ) -> Result<Vec<bool>, ImageError> {
        let entries = read_pagemap(&self.pagemap, area.start, area.end - area.start)?;
        let is_changed = |entry: &u64| all || is_private(*entry);
        let mut changed: Vec<bool> = entries.iter().map(is_changed).collect();

        if is_empty_elsewhere {
            let mut page = [0; PAGE];
            for (at, changed) in changed
                .iter_mut()
                .enumerate()
                .filter(|(_, changed)| **changed)
            {
                self.memory
                    .read_exact_at(&mut page, area.start + at as u64 * PAGE_BYTES)?;
                *changed = page != [0; PAGE];
            }
        }

        close_gaps(&mut changed);
        Ok(changed)
    }

    fn copy_pages(&mut self, address: u64, bytes: u64) -> io::Result<()> {
        let mut buffer = vec![0; MAX_RUN * PAGE];
        let mut copied = 0;
        while copied < bytes {
            let size =
                usize::try_from(bytes - copied).map_or(buffer.len(), |left| left.min(buffer.len()));
            let part = &mut buffer[..size];
            self.memory.read_exact_at(part, address + copied)?;
            self.pages.write_all_at(part, self.written)?;
            copied += size as u64;
            self.written += size as u64;
        }
        Ok(())
    }

    /// Returns the index of the file of a mapping, which is opened if it is new.
    fn find_file(&mut self, area: &Area) -> Result<usize, ImageError> {
        if let Some(known) = self.files.iter().position(|file| is_of(area, file)) {
            return Ok(known);
        }

        let opened = SavedFile::open(Path::new(&area.name)).map_err(|e| {
            ImageError::Unsupported(format!("cannot open {}, which is mapped: {e}", area.name))
        })?;
        if opened.inode != area.inode {
            let what = format!("{} was replaced after QEMU had started", area.name);
            return Err(ImageError::Unsupported(what));
        }
        self.files.push(opened);
        Ok(self.files.len() - 1)
    }
}

/// Returns whether an area is a mapping of this file.
fn is_of(area: &Area, file: &SavedFile) -> bool {
    // A continued process has no root in which paths are complete; some file systems report another device.
    let relative = area.name.trim_start_matches('/');
    let has_path = file
        .path
        .as_deref()
        .is_some_and(|path| path.ends_with(relative));
    file.inode == area.inode && (has_path || file.device == area.device)
}

/// Returns the ranges of a process's memory that it has written to, as far as its image has files for them.
pub(super) fn written_pages(
    pagemap: &File,
    mappings: &[Mapping],
) -> Result<Vec<(u64, u64)>, ImageError> {
    const WRITABLE: u32 = 2;

    let mut ranges: Vec<(u64, u64)> = Vec::new();
    let written = |mapping: &&Mapping| mapping.file.is_some() && mapping.protection & WRITABLE != 0;
    for mapping in mappings.iter().filter(written) {
        let entries = read_pagemap(pagemap, mapping.address, mapping.bytes)?;
        for (at, _) in entries
            .iter()
            .enumerate()
            .filter(|(_, entry)| is_private(**entry))
        {
            let address = mapping.address + at as u64 * PAGE_BYTES;
            match ranges.last_mut() {
                Some((start, bytes)) if *start + *bytes == address => *bytes += PAGE_BYTES,
                _ => ranges.push((address, PAGE_BYTES)),
            }
        }
    }
    Ok(ranges)
}

/// Marks short runs of unchanged pages between changed ones as changed.
fn close_gaps(changed: &mut [bool]) {
    let mut last = None;
    for at in 0..changed.len() {
        if !changed[at] {
            continue;
        }
        if let Some(last) = last.filter(|last| at - last - 1 <= MAX_GAP) {
            changed[last..at].fill(true);
        }
        last = Some(at);
    }
}

/// Returns empty memory below the stack, as far as there is room.
fn room_for_stack(stack: &Area, previous_end: u64) -> Option<Mapping> {
    let wanted = STACK_BYTES.saturating_sub(stack.end - stack.start);
    let free = stack
        .start
        .saturating_sub(previous_end)
        .saturating_sub(STACK_GAP);
    let bytes = wanted.min(free) / PAGE_BYTES * PAGE_BYTES;
    (bytes > 0).then_some(Mapping {
        address: stack.start - bytes,
        bytes,
        protection: stack.protection,
        file: None,
        offset: 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_maps_are_parsed() {
        let line = "7f5dc8a00000-7f5dc8a28000 r-xp 00026000 fe:00 1234   /usr/lib/a b.so";
        let area = Area::parse(line).unwrap();
        assert_eq!((area.start, area.end), (0x7f5d_c8a0_0000, 0x7f5d_c8a2_8000));
        assert_eq!(
            (area.protection, area.is_shared, area.offset),
            (5, false, 0x26000)
        );
        assert_eq!(
            (area.device, area.inode, &*area.name),
            ((0xfe, 0), 1234, "/usr/lib/a b.so")
        );

        let shared = Area::parse("1000-2000 rw-s 00000000 00:01 5 /memfd:x (deleted)").unwrap();
        assert!(shared.is_shared);
        assert_eq!(Area::parse("1000 rw-p"), None);
    }

    #[test]
    fn what_is_left_of_a_continuation_is_recognized() {
        let area = |start: u64, end: u64| {
            Area::parse(&format!("{start:x}-{end:x} r-xp 00000000 00:00 0 ")).unwrap()
        };
        let end = CONTINUATION_START + CONTINUATION_BYTES;
        assert!(area(CONTINUATION_START, CONTINUATION_START + PAGE_BYTES).is_of_continuation());
        assert!(area(end - PAGE_BYTES, end).is_of_continuation());
        assert!(!area(end - PAGE_BYTES, end + PAGE_BYTES).is_of_continuation());
        assert!(!area(CONTINUATION_START - PAGE_BYTES, end).is_of_continuation());
    }

    #[test]
    fn an_area_is_cut_at_the_guests_memory() {
        let area = Area::parse("1000-5000 rw-p 00002000 00:01 5 /f").unwrap();
        let part = |start, end| {
            let part = area.part(start, end)?;
            Some((part.start, part.end, part.offset))
        };
        assert_eq!(part(0, 0x2000), Some((0x1000, 0x2000, 0x2000)));
        assert_eq!(part(0x3000, u64::MAX), Some((0x3000, 0x5000, 0x4000)));
        assert_eq!(part(0x5000, u64::MAX), None);
        assert_eq!(part(0, 0x1000), None);
    }

    #[test]
    fn short_gaps_between_changed_pages_are_copied() {
        // One gap of one page, one as long as allowed, and one that is longer.
        let (near, far) = (3 + MAX_GAP + 1, 3 + 2 * (MAX_GAP + 1) + 1);
        let mut changed = vec![false; far + 4];
        for at in [1, 3, near, far] {
            changed[at] = true;
        }
        close_gaps(&mut changed);
        let expected = |at: usize| (1..=near).contains(&at) || at == far;
        let expected: Vec<bool> = (0..changed.len()).map(expected).collect();
        assert_eq!(changed, expected);
    }

    #[test]
    fn the_stack_gets_room_but_never_overlaps() {
        let stack = Area::parse("7ffd00000000-7ffd00021000 rw-p 00000000 00:00 0 [stack]").unwrap();
        let room = room_for_stack(&stack, 0x7000_0000_0000).unwrap();
        assert_eq!(room.end(), stack.start);
        assert_eq!(room.bytes + 0x21000, STACK_BYTES);
        let tight = room_for_stack(&stack, stack.start - STACK_GAP - 0x3000).unwrap();
        assert_eq!(tight.bytes, 0x3000);
        assert_eq!(room_for_stack(&stack, stack.start - STACK_GAP), None);
    }
}
