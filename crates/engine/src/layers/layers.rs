use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use fumehood_image::{LAYERS_BYTES, LayerKey, LayerWriter, StoredLayer, StoredPackage};

use super::builder_vm::{BUILDER, BuilderVm};
use super::index::PackageIndex;
use crate::config::TemplateUse;
use crate::error::{Error, ErrorKind};
use crate::packages::{InstalledPackage, PackageSet, PackageStep, ProgressCallback};
use crate::provision::Provisioner;
use crate::snapshot::TemplateSpec;
use crate::vm::Layer;

/// Interval at which the result of another process is looked for.
const POLL_INTERVAL: Duration = Duration::from_millis(200);

/// How long a request for packages without versions keeps what it was resolved to.
const UNPINNED_AGE: Duration = Duration::from_secs(24 * 60 * 60);

/// The packages of one request, and how to provide their layer.
#[derive(Debug, Clone)]
pub(crate) struct PackageLayers {
    set: PackageSet,
    /// Resolve the packages again, even if their versions are cached.
    force: bool,
    progress: ProgressCallback,
}

impl PackageLayers {
    pub(crate) fn new(set: PackageSet, force: bool, progress: ProgressCallback) -> Self {
        Self {
            set,
            force,
            progress,
        }
    }

    /// Adds the layer of the packages to a VM's specification. Builds the layer, and a template with it, if they do
    /// not exist. Returns the requested packages with their resolved versions.
    ///
    /// No package that a caller chose is imported for the template: that would run the package's code once, and all
    /// later runs would start with its effects. Only a package set is.
    ///
    /// # Errors
    /// Returns [`ErrorKind::Invalid`], [`ErrorKind::Missing`] or [`ErrorKind::Unreachable`], or fails as a boot.
    pub(crate) async fn ensure(
        self,
        provisioner: &Arc<Provisioner>,
        spec: &mut TemplateSpec,
    ) -> Result<Vec<InstalledPackage>, Error> {
        let stored = self.layer(provisioner).await?;
        spec.bundle = self.set.bundle();
        let manifest = stored.manifest();
        spec.shape.layer = Some(Layer::open(stored.path(), &manifest.digest)?);

        let installed = manifest.packages.iter().map(|package| InstalledPackage {
            name: package.name.clone(),
            version: package.version.clone(),
        });
        let resolved = self.set.requested_of(installed);

        let uses_templates = provisioner.config.templates != TemplateUse::Never;
        if !uses_templates || provisioner.has_template(spec) {
            return Ok(resolved);
        }

        // Without a template, the VM is booted.
        self.progress.report(PackageStep::BuildingTemplate);
        if let Err(error) = provisioner.build_template(spec).await {
            tracing::warn!(%error, "building a template for a layer of packages failed");
        }

        Ok(resolved)
    }

    /// Returns the layer of the packages. Builds it if it does not exist.
    async fn layer(&self, provisioner: &Arc<Provisioner>) -> Result<StoredLayer, Error> {
        let key = self.set.key(provisioner.factory.image().id(), BUILDER);
        let start = Instant::now();
        let mut force = self.force;
        let mut outdated = None;

        loop {
            // Look for a stored layer.
            if !force {
                let (layers, key) = (provisioner.layers.clone(), key.clone());
                let is_unpinned = self.set.is_unpinned() && outdated.is_none();
                let found = blocking(move || {
                    let is_old = is_unpinned && is_outdated(layers.resolved_at(&key));
                    Ok(layers.find(&key)?.map(|stored| (stored, is_old)))
                });

                match found.await? {
                    Some((stored, false)) => return Ok(stored),
                    // Newer versions may exist.
                    Some((stored, true)) => {
                        outdated = Some(stored);
                        force = true;
                    }
                    None => {}
                }
            }

            // Build it, unless another process does.
            let (layers, request) = (provisioner.layers.clone(), key.clone());
            let draft = blocking(move || layers.create(&request, force)).await?;
            if let Some(draft) = draft {
                let deadline = provisioner.config.package_deadline;
                let build = self.build(provisioner, &key, draft);
                let built = tokio::time::timeout(deadline, build).await;
                let built = built.unwrap_or_else(|_| Err(timed_out(deadline)));

                return match (built, outdated) {
                    // Without the index, the versions of the last time are the newest known ones.
                    (Err(error), Some(outdated)) if error.kind() == ErrorKind::Unreachable => {
                        tracing::warn!(%error, "resolving packages again failed; using the earlier versions");
                        Ok(outdated)
                    }
                    (built, _) => built,
                };
            }

            // A layer that another process builds now is new enough.
            force = false;
            if start.elapsed() > provisioner.config.package_deadline {
                let message = "timed out waiting for another process to install these packages";
                return Err(Error::new(ErrorKind::Busy, message));
            }

            self.progress.report(PackageStep::Waiting);
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    /// Installs the packages in a builder VM, and stores their layer.
    async fn build(
        &self,
        provisioner: &Arc<Provisioner>,
        key: &LayerKey,
        draft: LayerWriter,
    ) -> Result<StoredLayer, Error> {
        self.progress.report(PackageStep::Starting);
        let language = self.set.language();
        let index = PackageIndex::of_host(language).await?;
        let mut builder = BuilderVm::start(provisioner, &index).await?;
        let installed = builder.install(&self.set, &self.progress).await?;

        // Other requests may have been resolved to the same packages.
        let image = provisioner.factory.image().id().to_owned();
        let resolved_key = resolved_key(&self.set, &image, &index, &installed);
        let layers = provisioner.layers.clone();
        let existing = blocking({
            let (layers, resolved_key) = (layers.clone(), resolved_key.clone());
            move || layers.find_set(&resolved_key)
        });

        let layer = match existing.await? {
            Some(existing) => existing,
            None => {
                let bytes = builder.pack(&self.set, &self.progress).await?;
                self.progress.report(PackageStep::Storing);
                let (file, draft) = blocking(move || Ok((draft.file(bytes)?, draft))).await?;
                builder.fetch_layer(bytes, file).await?;

                let packages = installed.into_iter().map(|package| StoredPackage {
                    name: package.name,
                    version: package.version,
                });

                let packages = packages.collect();
                let requested = self.set.specs().to_vec();
                let finish = move || {
                    draft.finish(
                        &resolved_key,
                        language.as_str(),
                        &image,
                        packages,
                        requested,
                    )
                };

                blocking(finish).await?
            }
        };

        builder.end().await;

        let (key, stored) = (key.clone(), layer.clone());
        blocking(move || {
            layers.record_request(&key, &stored)?;
            layers.prune(LAYERS_BYTES).map(drop)
        })
        .await?;

        Ok(layer)
    }
}

/// Returns the key of the packages that a request was resolved to. Packages with the same name and version from other
/// indexes have another key.
fn resolved_key(
    set: &PackageSet,
    image: &str,
    index: &PackageIndex,
    installed: &[InstalledPackage],
) -> LayerKey {
    let language = set.language().as_str();
    let head = [
        ("image", image),
        ("builder", BUILDER),
        ("language", language),
    ];
    let indexes = index.urls().iter().map(|url| ("index", url.as_str()));
    let packages = installed.iter().flat_map(|package| {
        [
            ("package", package.name.as_str()),
            ("version", package.version.as_str()),
        ]
    });

    LayerKey::of(head.into_iter().chain(indexes).chain(packages))
}

/// Returns whether packages without versions must be resolved again.
fn is_outdated(resolved_at: Option<SystemTime>) -> bool {
    let age = resolved_at.and_then(|time| time.elapsed().ok());
    // A time in the future is of a clock that was wrong.
    age.is_none_or(|age| age > UNPINNED_AGE)
}

fn timed_out(deadline: Duration) -> Error {
    let message = format!(
        "the packages were not installed within {} s; the index may be slow, or there are many packages: try again, or increase the timeout (package_deadline, --package-timeout)",
        deadline.as_secs()
    );
    Error::new(ErrorKind::Unreachable, message)
}

/// Calls the store on a thread for blocking work.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, fumehood_image::Error> + Send + 'static,
) -> Result<T, Error> {
    let result = tokio::task::spawn_blocking(work).await;
    let failed = |e: &dyn std::fmt::Display| {
        Error::new(
            ErrorKind::Host,
            format!("storing a layer of packages failed: {e}"),
        )
    };

    result
        .map_err(|e| failed(&e))?
        .map_err(|e| failed(&e).caused_by(e))
}
