//! Layers: trees of packages that were installed once. Guests see a layer over their own root file system.
//!
//! `layers/DIGEST` in the store's [artifact cache](crate::artifact_cache) contains a manifest and an erofs
//! file system that a guest created. The host never parses that file; it only knows its digest.
//! `layers/requests_dir/KEY` names the layer that a request for packages resolved to, and is removed with its
//! layer.
//!
//! Resolving and installing packages belongs in the engine.

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
