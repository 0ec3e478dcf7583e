//! The version and the file names of the on-disk format.

/// The version of the manifest and of the keys.
pub(super) const FORMAT: u32 = 1;
/// The file of the manifest.
pub(super) const MANIFEST: &str = "manifest.json";
/// The file of the layer's file system.
pub(super) const LAYER: &str = "layer";
/// The directory that maps requests to layers.
pub(super) const REQUESTS: &str = "requests";
