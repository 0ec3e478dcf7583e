//! The version, the file names and the bounds of the on-disk format.

/// The version of the manifest and of the files beside it. Newer versions of fumehood read all earlier formats.
pub(super) const FORMAT: u32 = 1;
/// The manifest: a JSON object on the first line, and the SHA-256 of that line as a JSON string on the second.
pub(super) const MANIFEST: &str = "manifest.json";
/// The pages that differ from the template, at their own offsets of a sparse file.
pub(super) const MEMORY: &str = "memory";
/// Which pages `memory` has, with checksums.
pub(super) const INDEX: &str = "index";
/// The state of the devices, as QEMU writes it.
pub(super) const DEVICES: &str = "devices";
/// The pages that QEMU itself has changed, if it can be continued.
pub(super) const PROCESS_PAGES: &str = "process-pages";
/// The engine's description of QEMU.
pub(super) const PROCESS: &str = "process.json";
/// Locked while a process resumes or deletes the state, and says whether that has happened.
pub(super) const CLAIM: &str = "claim";
/// The contents of the claim: before the state is consumed, and afterwards. They have the same length, so that consuming
/// it changes one block in place, which is durable without a commit of the file system's journal.
pub(super) const UNCLAIMED: &[u8; 10] = b"unclaimed\n";
pub(super) const CONSUMED: &[u8; 10] = b"consumed \n";
/// The directory of the files that states need and share.
pub(super) const PINNED: &str = "pinned";

/// Maximum size of a manifest, in bytes.
pub(super) const MAX_MANIFEST_BYTES: u64 = 1 << 20;
/// Maximum size of the devices' state, in bytes: it has some 12 KB.
pub(super) const MAX_DEVICES_BYTES: u64 = 16 << 20;
/// Maximum size of the description of QEMU, in bytes.
pub(super) const MAX_PROCESS_BYTES: u64 = 64 << 20;
/// Maximum size of a guest's memory, in bytes.
pub(super) const MAX_MEMORY_BYTES: u64 = 1 << 40;
/// Maximum length of a label, in bytes.
pub(super) const MAX_LABEL_BYTES: usize = 256;

/// The size of a page of guest memory in bytes.
pub(super) const PAGE: usize = 4096;
/// The number of pages that have a checksum together.
pub(super) const CHUNK_PAGES: usize = 16;
/// The size of these pages in bytes.
pub(super) const CHUNK: usize = CHUNK_PAGES * PAGE;
