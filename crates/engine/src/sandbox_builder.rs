use std::future::IntoFuture;
use std::pin::Pin;
use std::time::Duration;

use fumehood_protocol::Language;

use crate::agent::GuestInit;
use crate::engine::Engine;
use crate::error::Error;
use crate::layers::PackageLayers;
use crate::network::{Network, PreparedNetwork};
use crate::packages::{InstalledPackage, PackageRequest, PackageStep, ProgressCallback};
use crate::provision::ANY_LANGUAGE;
use crate::run::RunRequest;
use crate::sandbox::{Sandbox, SandboxTimeouts};
use crate::snapshot::TemplateSpec;
use crate::vm::Shape;

/// Configures a sandbox. Await it to start the sandbox.
#[derive(Debug, Clone)]
#[must_use = "it does nothing until it is awaited"]
pub struct SandboxBuilder {
    engine: Engine,
    language: Language,
    shape: Shape,
    init: GuestInit,
    network: Option<Network>,
    timeouts: SandboxTimeouts,
    allow_root: bool,
    packages: PackageRequest,
    progress: ProgressCallback,
}

impl Engine {
    /// Configures a sandbox: a VM in which several programs can run, also at the same time.
    pub fn sandbox(&self) -> SandboxBuilder {
        SandboxBuilder::new(self.clone())
    }
}

impl SandboxBuilder {
    fn new(engine: Engine) -> Self {
        Self {
            engine,
            language: ANY_LANGUAGE,
            shape: Shape::plain(RunRequest::DEFAULT_MEMORY_MIB),
            init: GuestInit::NONE,
            network: None,
            timeouts: SandboxTimeouts::default(),
            allow_root: false,
            packages: PackageRequest::default(),
            progress: ProgressCallback::default(),
        }
    }

    /// Selects a VM with a warm interpreter of this language, so that its first run starts at once.
    pub fn language(mut self, language: Language) -> Self {
        self.language = language;
        self
    }

    /// Sets the memory, in MiB. Default: 512.
    pub fn memory_mib(mut self, mib: u32) -> Self {
        self.shape.memory_mib = mib;
        self
    }

    /// Ends the sandbox after this time without requests and without programs that a caller follows. By default it
    /// exists until its owner ends it.
    pub fn idle_timeout(mut self, time: Duration) -> Self {
        self.timeouts.idle_timeout = Some(time);
        self
    }

    /// Ends the sandbox at this age, even if programs run in it.
    pub fn max_lifetime(mut self, age: Duration) -> Self {
        self.timeouts.max_lifetime = Some(age);
        self
    }

    /// Allows programs to run as the guest's root ([`SpawnRequest::root`](crate::SpawnRequest::root)). Root can do
    /// anything in the guest, also to its agent; the isolation around the VM is not affected.
    pub fn allow_root(mut self) -> Self {
        self.allow_root = true;
        self
    }

    /// Gives the sandbox a network.
    pub fn network(mut self, network: Network) -> Self {
        self.shape.network = true;
        self.network = Some(network);
        self
    }

    /// Makes packages of the sandbox's [language](Self::language) available to its programs, as
    /// [`RunRequest::packages`](crate::RunRequest::packages) does.
    pub fn packages(mut self, packages: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.packages
            .specs
            .extend(packages.into_iter().map(Into::into));
        self
    }

    /// Resolves the packages again, even if their versions are cached.
    pub fn refresh_packages(mut self) -> Self {
        self.packages.force = true;
        self
    }

    /// Reports the progress of the packages' installation. `callback` must return quickly.
    pub fn on_package_step(
        mut self,
        callback: impl Fn(PackageStep) + Send + Sync + 'static,
    ) -> Self {
        self.progress = ProgressCallback::by(callback);
        self
    }

    /// Builds the template that such sandboxes start from. Returns `false` if it existed. The template depends on
    /// whether there is a network, and not on its policy.
    ///
    /// # Errors
    /// As [`Engine::build_template`].
    pub async fn build_template(self) -> Result<bool, Error> {
        let (spec, _) = self.template_spec().await?;
        self.engine.provisioner().build_template(&spec).await
    }

    /// Returns the template of the sandbox, and its packages with their versions. Its layer of packages is built if it
    /// does not exist.
    async fn template_spec(&self) -> Result<(TemplateSpec, Vec<InstalledPackage>), Error> {
        let checked = self
            .engine
            .checked_spec(self.language, self.shape.memory_mib)?;

        let mut spec = TemplateSpec {
            shape: self.shape.clone(),
            ..checked
        };

        let provisioner = self.engine.provisioner();
        let mut resolved = Vec::new();
        if let Some(set) = self.packages.set(self.language, self.engine.limits())? {
            let layers = PackageLayers::new(set, self.packages.force, self.progress.clone());
            resolved = layers.ensure(provisioner, &mut spec).await?;
        }

        Ok((spec, resolved))
    }

    async fn start(self) -> Result<Sandbox, Error> {
        // Ports of this host are taken first: a port in use is reported before a VM is started.
        let network = self.network.as_ref().map(Network::prepare).transpose()?;
        let init = network
            .as_ref()
            .map_or(self.init.clone(), PreparedNetwork::init);

        let (spec, packages) = self.template_spec().await?;
        let provisioner = self.engine.provisioner();
        let acquired = provisioner.acquire(&spec, &init).await?;
        let sandbox = Sandbox::new(provisioner.clone(), acquired, network, self.timeouts)?;
        sandbox.record_packages(packages);

        if self.allow_root {
            sandbox.allow_root().await?;
        }

        Ok(sandbox)
    }
}

/// Parts of a VM that only tests set.
#[cfg(feature = "testing")]
impl SandboxBuilder {
    /// Adds a network card whose other end is not connected: see [`Sandbox::cable`].
    pub fn network_card(mut self) -> Self {
        self.shape.network = true;
        self
    }

    /// Mounts a tree of packages over the guest's own.
    pub fn layer(mut self, layer: crate::vm::Layer) -> Self {
        self.shape.layer = Some(layer);
        self
    }

    /// Makes programs trust these certificate authorities (PEM), and sets these variables for them.
    pub fn brings(mut self, certificates: &str, environment: &[(&str, &str)]) -> Self {
        self.init = GuestInit {
            certificates: Some(certificates.into()),
            environment: Some(environment.iter().copied().collect()),
            ..GuestInit::NONE
        };
        self
    }
}

impl IntoFuture for SandboxBuilder {
    type Output = Result<Sandbox, Error>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.start())
    }
}
