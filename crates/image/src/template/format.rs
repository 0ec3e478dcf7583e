//! The version and the file names of the on-disk format.

/// The version of the manifest, of the files beside it, and of the hash of the memory.
pub(super) const FORMAT: u32 = 2;
/// The file of the manifest.
pub(super) const MANIFEST: &str = "manifest.json";
/// The file of the guest's memory.
pub(super) const RAM: &str = "ram";
/// The file of the devices' state.
pub(super) const STATE: &str = "state";
