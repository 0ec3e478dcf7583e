use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// A step of providing the packages of a run or sandbox. Packages that are cached have no steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum PackageStep {
    /// Waiting for another process that installs the same packages.
    Waiting,
    /// Starting a VM to install them in.
    Starting,
    /// Resolving, downloading and installing them in the VM.
    Installing,
    /// Packing them into a layer.
    Packing,
    /// Copying the layer to this host.
    Storing,
    /// Building a template with the layer, from which runs start.
    BuildingTemplate,
}

impl PackageStep {
    /// Returns the name in JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Starting => "starting",
            Self::Installing => "installing",
            Self::Packing => "packing",
            Self::Storing => "storing",
            Self::BuildingTemplate => "building_template",
        }
    }
}

impl fmt::Display for PackageStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Waiting => "waiting for another process that installs the same packages",
            Self::Starting => "starting a VM to install the packages in",
            Self::Installing => "resolving and installing",
            Self::Packing => "packing a layer",
            Self::Storing => "storing the layer",
            Self::BuildingTemplate => "building a template",
        })
    }
}

/// Receives the steps of an installation.
#[derive(Clone, Default)]
pub(crate) struct ProgressCallback(Option<Arc<dyn Fn(PackageStep) + Send + Sync>>);

impl ProgressCallback {
    /// Calls this function, which must return quickly.
    pub(crate) fn by(callback: impl Fn(PackageStep) + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(callback)))
    }

    pub(crate) fn report(&self, step: PackageStep) {
        if let Some(callback) = &self.0 {
            callback(step);
        }
    }
}

impl fmt::Debug for ProgressCallback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_set = self.0.is_some();
        f.debug_tuple("ProgressCallback").field(&is_set).finish()
    }
}
