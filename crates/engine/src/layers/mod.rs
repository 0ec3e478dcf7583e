//! Layers of packages: installed once in a builder VM, stored, and laid over the image for later runs.
//!
//! The store itself belongs to the image crate.

mod builder_vm;
mod index;
mod layers;

pub(crate) use layers::Wanted;
