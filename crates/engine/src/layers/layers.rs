use std::sync::Arc;
use std::time::{Duration, Instant};

use fumehood_image::{LAYERS_BYTES, LayerDraft, LayerKey, StoredLayer, StoredPackage};

use super::builder_vm::PackageBuilder;
use super::index::PackageIndex;
use crate::config::TemplateUse;
use crate::error::{Error, ErrorKind};
use crate::packages::{PackageSet, PackageStep, Told};
use crate::provision::Host;
use crate::sandbox::InstalledPackage;
use crate::snapshot::Which;
use crate::vm::Layer;

/// Between two looks at what another process makes.
const LOOK: Duration = Duration::from_millis(200);

/// Packages that a VM is to have.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    set: PackageSet,
    anew: bool,
    told: Told,
}

impl Wanted {
    /// These packages; with `anew` whatever they came to before.
    pub(crate) fn new(set: PackageSet, anew: bool, told: Told) -> Self {
        Self { set, anew, told }
    }

    /// Has a VM of this kind begin with the packages: makes their layer and a template over it where they are not
    /// there.
    ///
    /// No package is imported for the template: that would run its code, once, and all later runs would begin with
    /// what it left behind.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`], [`ErrorKind::Missing`], [`ErrorKind::Unreachable`]; as a boot.
    pub(crate) async fn into_shape(self, host: &Arc<Host>, which: &mut Which) -> Result<(), Error> {
        which.shape.layer = Some(self.layer(host).await?);
        if host.config.templates == TemplateUse::Never || host.has_template(which) {
            return Ok(());
        }
        self.told.tell(PackageStep::BuildingTemplate);
        // Without one it is booted.
        if let Err(error) = host.build_template(which).await {
            tracing::warn!(%error, "no template was made for a layer of packages");
        }
        Ok(())
    }

    /// The layer of the packages, made where it is not there.
    async fn layer(&self, host: &Arc<Host>) -> Result<Layer, Error> {
        let key = self.set.key(host.kit.image().id());
        let begun = Instant::now();
        let mut anew = self.anew;
        loop {
            let (layers, request) = (host.layers.clone(), key.clone());
            let found = blocking(move || match anew {
                true => Ok(None),
                false => layers.find(&request),
            });
            if let Some(found) = found.await? {
                return open(&found);
            }
            let (layers, request) = (host.layers.clone(), key.clone());
            let draft = blocking(move || layers.begin(&request, anew)).await?;
            if let Some(draft) = draft {
                let deadline = host.config.package_deadline;
                let built = tokio::time::timeout(deadline, self.build(host, &key, draft)).await;
                return open(&built.unwrap_or_else(|_| Err(late(deadline)))?);
            }
            // What another process makes now is as new.
            anew = false;
            if begun.elapsed() > host.config.package_deadline {
                let message = "another process installs these packages and does not come to an end";
                return Err(Error::new(ErrorKind::Busy, message));
            }
            self.told.tell(PackageStep::Waiting);
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Installs them, and keeps what they come to.
    async fn build(
        &self,
        host: &Arc<Host>,
        key: &LayerKey,
        draft: LayerDraft,
    ) -> Result<StoredLayer, Error> {
        self.told.tell(PackageStep::Starting);
        let index = PackageIndex::of_host(self.set.language()).await?;
        let mut builder = PackageBuilder::start(host, &index).await?;
        let installed = builder.install(&self.set, &self.told).await?;
        let image = host.kit.image().id().to_owned();
        let set = resolved(&self.set, &image, &index, &installed);
        let layers = host.layers.clone();
        let same = blocking({
            let (layers, set) = (layers.clone(), set.clone());
            move || layers.find_set(&set)
        });
        let layer = match same.await? {
            Some(same) => same,
            None => {
                let bytes = builder.pack(&self.set, &self.told).await?;
                self.told.tell(PackageStep::Storing);
                let (file, draft) = blocking(move || Ok((draft.file(bytes)?, draft))).await?;
                builder.bring(bytes, file).await?;
                let (language, asked) = (self.set.language(), self.set.specs().to_vec());
                let packages = installed.into_iter().map(|one| StoredPackage {
                    name: one.name,
                    version: one.version,
                });
                let packages = packages.collect();
                let finish = move || draft.finish(&set, language.as_str(), &image, packages, asked);
                blocking(finish).await?
            }
        };
        builder.end().await;
        let (key, kept) = (key.clone(), layer.clone());
        blocking(move || {
            layers.remember(&key, &kept)?;
            layers.prune(LAYERS_BYTES).map(drop)
        })
        .await?;
        Ok(layer)
    }
}

/// The key of what packages were resolved to. Packages of one name and version from other indexes are others.
fn resolved(
    set: &PackageSet,
    image: &str,
    index: &PackageIndex,
    installed: &[InstalledPackage],
) -> LayerKey {
    let head = [("image", image), ("language", set.language().as_str())];
    let indexes = index.urls().iter().map(|url| ("index", url.as_str()));
    let packages = installed.iter().flat_map(|one| {
        [
            ("package", one.name.as_str()),
            ("version", one.version.as_str()),
        ]
    });
    LayerKey::of(head.into_iter().chain(indexes).chain(packages))
}

fn open(found: &StoredLayer) -> Result<Layer, Error> {
    Layer::open(found.path(), &found.manifest().digest)
}

fn late(deadline: Duration) -> Error {
    let message = format!(
        "the packages were not installed within {} s; the index is slow, or there are many of them: try again, or give them longer (package_deadline, --package-timeout)",
        deadline.as_secs()
    );
    Error::new(ErrorKind::Unreachable, message)
}

/// Does something with the store on a thread for such.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, fumehood_image::Error> + Send + 'static,
) -> Result<T, Error> {
    let done = tokio::task::spawn_blocking(work).await;
    let host = |e: &dyn std::fmt::Display| {
        Error::new(ErrorKind::Host, format!("the layer of packages: {e}"))
    };
    done.map_err(|e| host(&e))?
        .map_err(|e| host(&e).caused_by(e))
}
