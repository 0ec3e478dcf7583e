//! Layers: trees of packages that were installed once, which guests see over their own.
//!
//! `layers/DIGEST` in the store, a [shelf](crate::shelf), holds one: an erofs file system that a guest has made, and a
//! manifest. The host never looks into the file: to it, it is bytes with a digest. `layers/requests/KEY` tells which
//! layer a request for packages came to; it is of no more use than its layer, and goes with it.

mod draft;
mod key;
mod layers;
mod list;
mod manifest;

pub use draft::LayerWriter;
pub use key::LayerKey;
pub use layers::{Layers, StoredLayer};
pub use list::LayerSummary;
pub use manifest::{LayerManifest, StoredPackage};

/// Bytes on disk that layers may take when nobody says otherwise: 8 GiB, some eighty of such packages as numpy and
/// pandas (100 MB), or a few of the largest.
pub const LAYERS_BYTES: u64 = 8 << 30;

/// The version of the manifest and of the keys.
const FORMAT: u32 = 1;
/// The manifest's file.
const MANIFEST: &str = "manifest.json";
/// The file system.
const LAYER: &str = "layer";
/// The directory of what requests came to.
const REQUESTS: &str = "requests";

#[cfg(test)]
mod tests;
