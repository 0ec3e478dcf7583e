//! The version and the file names of the format on disk.

/// The version of the manifest and of the keys.
pub(super) const FORMAT: u32 = 1;
/// The manifest's file.
pub(super) const MANIFEST: &str = "manifest.json";
/// The file system.
pub(super) const LAYER: &str = "layer";
/// The directory of what requests came to.
pub(super) const REQUESTS: &str = "requests";
