//! QEMU itself beside the state of its guest on disk: the files that it maps, and how they are found again.

use std::fs::File;
use std::ops::Range;
use std::path::PathBuf;

use fumehood_image::{ProcessTarget, StoredProcess};
use fumehood_qemu::{
    GuestMapping, GuestRange, ProcessImage, ProcessToSave, SavedFile, SavedProcess,
};
use serde::{Deserialize, Serialize};

use super::image_files::{FileIdentity, Libraries};
use super::state::Snapshot;
use super::template_memory::TemplateMemory;
use crate::vm::PassedIdentities;

/// The description of a QEMU beside a state.
#[derive(Debug, Serialize, Deserialize)]
struct Description {
    process: ProcessImage,
    guest_memory: GuestRange,
    /// The files that it maps besides its changed pages, in their order.
    files: Vec<MappedFile>,
}

/// A file that a QEMU beside a state maps. Those that the state does not contain must not have changed.
#[derive(Debug, Serialize, Deserialize)]
enum MappedFile {
    /// The guest's pages of the state.
    GuestMemory,
    /// The memory of the state's template.
    Template,
    /// The changed pages of a hot image.
    HotImage(PathBuf, FileIdentity),
    /// A program or library.
    Library(PathBuf, FileIdentity),
}

/// The indexes of the guest's files among those of the base.
const MEMORY: usize = 0;
const TEMPLATE: usize = 1;

/// Saves the QEMU of a guest whose pages have been stored; returns its description. The guest is stopped.
///
/// # Errors
/// Returns why it cannot be saved.
pub(super) fn save(
    pid: u32,
    guest_memory: GuestRange,
    passed: &PassedIdentities,
    base: Option<&Snapshot>,
    target: &ProcessTarget<'_>,
) -> Result<Vec<u8>, String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let template = base.and_then(Snapshot::template);

    // The guest's own files come first.
    let memory = target.memory.try_clone().map_err(|e| text(&e))?;
    let mut files = vec![SavedFile::new(memory, None).map_err(|e| text(&e))?];
    if let Some(template) = template {
        let file = template.needed().file.try_clone().map_err(|e| text(&e))?;
        files.push(SavedFile::new(file, None).map_err(|e| text(&e))?);
    }
    let own = files.len();

    // A file that has no path any more is not found later.
    let mapped = base.map_or(Ok(Vec::new()), Snapshot::mapped_files);
    let others = mapped.map_err(|e| text(&e))?.into_iter();
    let others = others.filter(|file| template.is_none_or(|template| !template.is_copy(file)));
    let (lasting, copied): (Vec<_>, Vec<_>) = others.partition(|file| file.find_path().is_some());
    files.extend(lasting);

    let guest = guest_mappings(&target.stored, guest_memory.bytes, template.is_some());
    let process = ProcessToSave {
        pid,
        guest_memory,
        passed: &passed.kept,
        unneeded: &passed.read,
        base: &files,
        copied: &copied,
        guest: Some(&guest),
    };
    let pages = target.pages.try_clone().map_err(|e| text(&e))?;
    let saved = SavedProcess::save(process, pages).map_err(|e| text(&e))?;

    describe(&saved, own)
}

/// Describes a process whose changed pages and the next `own` files belong to the state.
fn describe(saved: &SavedProcess, own: usize) -> Result<Vec<u8>, String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let mut files = vec![MappedFile::GuestMemory];
    if own > TEMPLATE {
        files.push(MappedFile::Template);
    }
    for file in &saved.files()[1 + own..] {
        let path = file.find_path().ok_or("a file that it maps was removed")?;
        let opened = file.try_clone().map_err(|e| text(&e))?;
        let identity = FileIdentity::of_file(&opened).map_err(|e| text(&e))?;
        files.push(match file.path {
            Some(_) => MappedFile::Library(path, identity),
            None => MappedFile::HotImage(path, identity),
        });
    }

    let description = Description {
        process: saved.image().clone(),
        guest_memory: saved.guest_memory(),
        files,
    };
    serde_json::to_vec(&description).map_err(|e| text(&e))
}

/// Returns the mappings of a guest's memory: ranges that are stored, and between them the template, or nothing.
fn guest_mappings(stored: &[Range<u64>], bytes: u64, has_template: bool) -> Vec<GuestMapping> {
    let mut mappings = Vec::with_capacity(2 * stored.len() + 1);
    let mut add = |start: u64, end: u64, file: Option<usize>| {
        if start < end {
            mappings.push(GuestMapping {
                offset: start,
                bytes: end - start,
                file,
            });
        }
    };

    let (mut at, rest) = (0, has_template.then_some(TEMPLATE));
    for range in stored {
        add(at, range.start, rest);
        add(range.start, range.end, Some(MEMORY));
        at = range.end;
    }
    add(at, bytes, rest);
    mappings
}

/// Opens the files that the QEMU of a state maps.
///
/// # Errors
/// Returns why it cannot be continued.
pub(crate) fn load_process(
    stored: &StoredProcess,
    memory: &File,
    template: Option<&TemplateMemory>,
    libraries: &Libraries,
) -> Result<SavedProcess, String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let description: Description =
        serde_json::from_slice(&stored.description).map_err(|e| text(&e))?;
    let own = |file: &File| {
        let file = file.try_clone().map_err(|e| text(&e))?;
        SavedFile::new(file, None).map_err(|e| text(&e))
    };

    let mut files = vec![own(&stored.pages)?];
    for file in description.files {
        files.push(match file {
            MappedFile::GuestMemory => own(memory)?,
            MappedFile::Template => {
                let template = template.ok_or("the state has no template")?;
                own(template.needed().file)?
            }
            MappedFile::HotImage(path, recorded) => {
                let file = File::open(&path).map_err(|e| format!("{}: {e}", path.display()))?;
                if FileIdentity::of_file(&file).map_err(|e| text(&e))? != recorded {
                    return Err(format!("{} was replaced", path.display()));
                }
                own(&file)?
            }
            MappedFile::Library(path, recorded) => {
                libraries.open(path, recorded).map_err(|e| text(&e))?
            }
        });
    }
    SavedProcess::new(description.process, description.guest_memory, files).map_err(|e| text(&e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stored_ranges_alternate_with_the_template() {
        let parts = |stored: &[Range<u64>], has_template| {
            let mappings = guest_mappings(stored, 100, has_template);
            let parts = mappings
                .iter()
                .map(|part| (part.offset, part.bytes, part.file));
            parts.collect::<Vec<_>>()
        };
        assert_eq!(parts(&[], true), [(0, 100, Some(TEMPLATE))]);
        assert_eq!(parts(&[0..60, 60..100], true)[1], (60, 40, Some(MEMORY)));
        assert_eq!(
            parts(&[10..20, 30..100], false),
            [
                (0, 10, None),
                (10, 10, Some(MEMORY)),
                (20, 10, None),
                (30, 70, Some(MEMORY))
            ]
        );
    }
}
