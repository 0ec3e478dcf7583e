//! The packages that requests name, and the progress of their installation.
//!
//! Installing them and storing their layers belongs to `layers`.

mod package_set;
mod progress;

pub(crate) use package_set::{PackageRequest, PackageSet};
pub use progress::PackageStep;
pub(crate) use progress::ProgressCallback;
