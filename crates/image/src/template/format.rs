//! The version and the file names of the format on disk.

/// The version of the manifest, of the files beside it, and of the way memory is hashed.
pub(super) const FORMAT: u32 = 2;
/// The manifest's file.
pub(super) const MANIFEST: &str = "manifest.json";
/// The guest's memory.
pub(super) const RAM: &str = "ram";
/// The state of the devices.
pub(super) const STATE: &str = "state";
