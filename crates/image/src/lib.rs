//! The guest image: the files that a fumehood sandbox boots from.
//!
//! An image consists of three files and a manifest: a kernel, an initial file system that contains the agent,
//! and a read-only root file system. They are built once from the host's own package sources; every sandbox
//! shares them unchanged. This crate builds images ([`build()`]), stores them ([`Store`]), and opens them for
//! the engine ([`Image`]) without hashing a file twice.
//!
//! The store also holds warm templates ([`Templates`]), which are guests saved after their boot, and layers
//! of packages ([`Layers`]).
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

#![warn(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "they panic if the stream is closed or its disk is full"
)]

// From the top layer to the bottom: a module imports only from those declared after it.
mod build;
mod leftovers;
mod kernel;
mod rootfs;
mod tools;
mod options;
mod progress;
mod saved_state;
mod hot_image;
mod template;
mod layer;
mod artifact_cache;
mod store;
mod sparse;
mod clock;
mod hash;
mod error;

pub use artifact_cache::PruneReport;
pub use build::{
    BuildOutcome, BuildReport, build, floor_initrd, initrd_with_modules, missing_prerequisites,
    prepare_inputs,
};
pub use error::Error;
pub use hot_image::{
    BuildFailure, BuilderLock, HOT_IMAGE_AGE, HotImage, HotImageSummary, HotImageWriter, HotImages,
    boot_id,
};
pub use layer::{
    LAYERS_BYTES, LayerKey, LayerManifest, LayerSummary, LayerWriter, Layers, StoredLayer,
    StoredPackage,
};
pub use options::{BuildOptions, ExtraFile, RootFormat};
pub use progress::{NoProgress, Progress, Step, StepEnd};
pub use saved_state::{
    NeededFile, OpenedState, PageIndex, PageWriter, PinnedFile, ProcessRecord, ProcessSaver,
    ProcessTarget, SavedStates, StateClaim, StateId, StateManifest, StateSummary, StateToSave,
    StoredPages, StoredProcess,
};
pub use sparse::{copy_sparse, data_ranges};
pub use store::{
    Artifact, Image, ImageFile, ImageName, ImageSummary, KernelChoice, KernelRecord, Manifest,
    PartRecord, PartReport, PartState, Store, Verification,
};
pub use template::{
    TEMPLATES_BYTES, Template, TemplateKey, TemplateManifest, TemplateSummary, TemplateWriter,
    Templates,
};
pub use tools::terminate_programs;
