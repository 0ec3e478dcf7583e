//! The packages that requests name, and the progress of their installation.
//!
//! Installing them and storing their layers belongs to `layers`.

mod bundle;
mod installed_package;
mod package_set;
mod progress;
mod specifier;

pub(crate) use bundle::PackageBundle;
pub use installed_package::InstalledPackage;
pub(crate) use package_set::{PackageRequest, PackageSet};
pub use progress::PackageStep;
pub(crate) use progress::ProgressCallback;
pub(crate) use specifier::with_specifier;
