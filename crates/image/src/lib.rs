//! The guest image: what a fumehood sandbox boots.
//!
//! An image is three files and a manifest: a kernel, a start file system with the agent in it, and a
//! read-only root file system. They are built once from the host's own package sources and then shared,
//! unchanged, by every sandbox. This crate builds them ([`build`]), keeps them ([`Store`]), and opens them
//! for the engine ([`Image`]) without hashing anything twice.
//!
//! Beside the images the store keeps warm templates ([`Templates`]): guests saved after their boot; and layers of
//! packages ([`Layers`]).
//!
//! ```no_run
//! use fumehood_image::{ImageName, Store};
//!
//! # fn main() -> Result<(), fumehood_image::Error> {
//! let store = Store::open(Store::default_root()?)?;
//! let image = store.image(&ImageName::default())?;
//! println!("kernel {}", image.kernel().path().display());
//! # Ok(())
//! # }
//! ```

mod apt;
mod build;
mod bun;
mod command;
mod cpio;
mod download;
mod elf;
mod error;
mod fingerprint;
mod hash;
mod identity;
mod image;
mod initrd;
mod kernel;
mod layer;
mod manifest;
mod mmdebstrap;
mod name;
mod options;
mod progress;
mod recipe;
mod rootfs;
mod shelf;
mod sparse;
mod store;
mod template;
mod uv;
mod workdir;

pub use build::{BuildOutcome, BuildReport, build, prepare_kernel};
pub use error::Error;
pub use image::{Image, ImageFile};
pub use initrd::floor as floor_initrd;
pub use layer::{
    LAYERS_BYTES, LayerKey, LayerManifest, LayerSummary, LayerWriter, Layers, StoredLayer,
    StoredPackage,
};
pub use manifest::{Artifact, KernelRecord, Manifest, PartRecord};
pub use name::ImageName;
pub use options::{BuildOptions, ExtraFile, KernelChoice, RootFormat};
pub use progress::{NoProgress, Progress, Step, StepEnd};
pub use shelf::PruneReport;
pub use sparse::copy_sparse;
pub use store::{ImageSummary, PartReport, PartState, Store, Verification};
pub use template::{
    TEMPLATES_BYTES, Template, TemplateKey, TemplateManifest, TemplateSummary, TemplateWriter,
    Templates,
};
