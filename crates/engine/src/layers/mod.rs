//! Layers of packages: installed once in a builder VM, stored, and mounted over the image for later runs.
//!
//! The store itself belongs to the image crate; the syntax of requests belongs to `packages`.

mod builder_vm;
mod index;
mod layers;

pub(crate) use layers::PackageLayers;
