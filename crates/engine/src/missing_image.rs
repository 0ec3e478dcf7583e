//! Hot images that a command which runs once has missed, so that another process can create them.

use std::time::Duration;

use fumehood_protocol::Language;
use serde::{Deserialize, Serialize};

use crate::engine::Engine;
use crate::error::{Error, ErrorKind};
use crate::packages::PackageBundle;
use crate::snapshot::{BuildResult, TemplateSpec};
use crate::vm::{Layer, Shape};

/// How long nothing is created for commands that run once after a failure: the next one would probably fail, too.
const RETRY_DELAY: Duration = Duration::from_hours(1);

/// A hot image that a VM could not use because it does not exist, or is too old. Returned by
/// [`Engine::missing_hot_images`]; another process can create it by [`Engine::build_hot_image`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MissingHotImage {
    language: Language,
    memory_mib: u32,
    network: bool,
    /// The digest of the layer of packages.
    layer: Option<String>,
    /// The name of the package set.
    bundle: Option<String>,
}

impl MissingHotImage {
    fn of(spec: TemplateSpec) -> Self {
        let TemplateSpec {
            language,
            shape,
            bundle,
        } = spec;
        Self {
            language,
            memory_mib: shape.memory_mib,
            network: shape.network,
            layer: shape.layer.map(|layer| layer.digest().to_owned()),
            bundle: bundle.map(|bundle| bundle.name.to_owned()),
        }
    }
}

impl Engine {
    /// Takes the hot images that VMs of this engine could not use, so that others restored their template. Empty if
    /// creating one has failed within the last hour. If templates are built in the background, so are hot images: see
    /// [`TemplateUse`](crate::TemplateUse).
    #[must_use]
    pub fn missing_hot_images(&self) -> Vec<MissingHotImage> {
        let provisioner = self.provisioner();
        let failure = provisioner.hot_images.shelf().last_failure();
        if failure.is_some_and(|failure| failure.age < RETRY_DELAY) {
            return Vec::new();
        }

        let missing = std::iter::from_fn(|| provisioner.take_missing());
        missing.map(MissingHotImage::of).collect()
    }

    /// Creates a hot image whose template exists. Returns `false` if it exists, or if another process creates it.
    ///
    /// # Errors
    /// Returns [`ErrorKind::Invalid`] and [`ErrorKind::Missing`] if there can be no such VM, and fails as a restore.
    pub async fn build_hot_image(&self, missing: &MissingHotImage) -> Result<bool, Error> {
        let spec = self.spec_of(missing)?;
        match self.provisioner().build_hot_image(&spec).await? {
            BuildResult::Saved => Ok(true),
            BuildResult::Elsewhere => Ok(false),
            BuildResult::Unsaved(why) => {
                let message = format!("cannot save a hot image: {why}");
                Err(Error::new(ErrorKind::Host, message))
            }
        }
    }

    fn spec_of(&self, missing: &MissingHotImage) -> Result<TemplateSpec, Error> {
        let plain = self.checked_spec(missing.language, missing.memory_mib)?;
        let layer = missing.layer.as_deref().map(|digest| self.layer(digest));
        let bundle = missing.bundle.as_deref().map(|name| {
            let unknown = || Error::new(ErrorKind::Missing, format!("no package set {name}"));
            PackageBundle::named(name).ok_or_else(unknown)
        });

        Ok(TemplateSpec {
            language: missing.language,
            shape: Shape {
                network: missing.network,
                layer: layer.transpose()?,
                ..plain.shape
            },
            bundle: bundle.transpose()?,
        })
    }

    /// Opens the layer with this digest.
    fn layer(&self, digest: &str) -> Result<Layer, Error> {
        let stored = self.provisioner().layers.find_digest(digest);
        let stored = stored.map_err(|e| Error::new(ErrorKind::Host, e.to_string()))?;
        let stored = stored.ok_or_else(|| {
            let message = format!("the store has no layer {digest}");
            Error::new(ErrorKind::Missing, message)
        })?;
        Layer::open(stored.path(), digest)
    }
}
