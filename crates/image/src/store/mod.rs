//! The store on disk: images with their manifests, and the caches that make later builds faster.
//!
//! This folder reads, verifies and installs images. Building their parts belongs in [`build`](mod@crate::build),
//! the format of templates and layers in [`artifact_cache`](crate::artifact_cache) and the folders above it.

mod durability;
mod fingerprint;
mod identity;
mod image;
mod image_store;
mod manifest;
mod name;
mod verification;
mod work_dir;

pub(crate) use self::durability::{replace_file, sync_directory, sync_file};
pub(crate) use self::identity::{
    IDENTITY_FILE, Identities, Identity, load_identities, parse_identities, save_identities,
};
pub use self::image::{Image, ImageFile};
pub use self::image_store::{ImageSummary, Store};
#[cfg(test)]
pub(crate) use self::manifest::tests::example as example_manifest;
pub use self::manifest::{Artifact, KernelChoice, KernelRecord, Manifest, PartRecord};
pub(crate) use self::manifest::{FORMAT, PARTS};
pub use self::name::ImageName;
pub use self::verification::{PartReport, PartState, Verification};

#[cfg(test)]
mod tests;
