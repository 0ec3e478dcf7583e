//! Builds an image: runs the steps in order, hashes their results and installs the image in the store.
//!
//! The individual steps belong in [`kernel`](crate::kernel), [`rootfs`](crate::rootfs) and
//! [`tools`](crate::tools).

mod cpio;
mod elf;
mod initrd;
mod pipeline;
mod prerequisites;
mod recipe;

pub use self::initrd::{build as initrd_with_modules, floor as floor_initrd};
pub use self::pipeline::{BuildOutcome, BuildReport, build, prepare_inputs};
pub use self::prerequisites::missing_prerequisites;
