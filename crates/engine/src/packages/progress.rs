use std::fmt;
use std::sync::Arc;

/// What is being done for packages that a run or a sandbox asks for. Where they are there already, nothing is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PackageStep {
    /// Another process installs the same ones; its result is waited for.
    Waiting,
    /// A VM is started to install them in.
    Starting,
    /// They are resolved, downloaded and installed in it.
    Installing,
    /// A layer is made of them.
    Packing,
    /// The layer is brought to this host.
    Storing,
    /// A template with them is made, from which runs begin.
    BuildingTemplate,
}

impl PackageStep {
    /// The name in JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Starting => "starting",
            Self::Installing => "installing",
            Self::Packing => "packing",
            Self::Storing => "keeping",
            Self::BuildingTemplate => "warming",
        }
    }
}

impl fmt::Display for PackageStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Waiting => "another process installs the same packages; waiting for it",
            Self::Starting => "starting a VM to install in",
            Self::Installing => "resolving and installing",
            Self::Packing => "making a layer",
            Self::Storing => "keeping the layer",
            Self::BuildingTemplate => "making a warm template",
        })
    }
}

/// Who is told of steps.
#[derive(Clone, Default)]
pub(crate) struct Told(Option<Arc<dyn Fn(PackageStep) + Send + Sync>>);

impl Told {
    /// Somebody who holds nothing up.
    pub(crate) fn by(tell: impl Fn(PackageStep) + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(tell)))
    }

    pub(crate) fn tell(&self, step: PackageStep) {
        if let Some(tell) = &self.0 {
            tell(step);
        }
    }
}

impl fmt::Debug for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Told").field(&self.0.is_some()).finish()
    }
}
