//! Layers: trees of packages that were installed once, which guests see over their own.
//!
//! `layers/DIGEST` in the store, a [shelf](crate::shelf), holds one: an erofs file system that a guest has made, and a
//! manifest. The host never looks into the file: to it, it is bytes with a digest. `layers/requests/KEY` tells which
//! layer a request for packages came to; it is of no more use than its layer, and goes with it.

mod format;
mod key;
mod layers;
mod manifest;
mod stored_layer;
mod summary;
mod writer;

pub use self::key::LayerKey;
pub use self::layers::{LAYERS_BYTES, Layers};
pub use self::manifest::{LayerManifest, StoredPackage};
pub use self::stored_layer::StoredLayer;
pub use self::summary::LayerSummary;
pub use self::writer::LayerWriter;

#[cfg(test)]
mod tests;
