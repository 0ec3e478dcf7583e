use std::future::IntoFuture;
use std::pin::Pin;
use std::time::Duration;

use fumehood_protocol::{EnvVars, Language};

use crate::agent::Brought;
use crate::engine::Engine;
use crate::error::Error;
use crate::layers::Wanted;
use crate::network::{Network, Prepared};
use crate::packages::{Asked, PackageStep, Told};
use crate::provision::ANY_LANGUAGE;
use crate::run::RunRequest;
use crate::sandbox::{Sandbox, Times};
use crate::snapshot::Which;
use crate::vm::{Layer, Shape};

/// What a sandbox is to be like. Await it to have one.
#[derive(Debug, Clone)]
#[must_use = "it does nothing until it is awaited"]
pub struct SandboxBuilder {
    engine: Engine,
    language: Language,
    shape: Shape,
    brought: Brought,
    network: Option<Network>,
    times: Times,
    allow_root: bool,
    packages: Asked,
    told: Told,
}

/// Which VM, with which packages.
#[derive(Debug)]
struct Kind {
    pub(crate) language: Language,
    pub(crate) shape: Shape,
    pub(crate) packages: (Asked, Told),
}

impl Engine {
    /// A VM that is kept: several programs may run in it, also at once. Takes the builder's defaults unless
    /// they are changed.
    pub fn sandbox(&self) -> SandboxBuilder {
        SandboxBuilder::new(self.clone())
    }

    async fn fresh_sandbox(
        &self,
        kind: Kind,
        brought: &Brought,
        prepared: Option<Prepared>,
        times: Times,
    ) -> Result<Sandbox, Error> {
        let which = self.shaped(kind).await?;
        let fresh = self.host().acquire(&which, brought).await?;
        Sandbox::new(self.host().clone(), fresh, prepared, times)
    }

    async fn shaped_template(&self, kind: Kind) -> Result<bool, Error> {
        let which = self.shaped(kind).await?;
        self.host().build_template(&which).await
    }

    /// The kind of VM, with its packages ready.
    async fn shaped(&self, kind: Kind) -> Result<Which, Error> {
        let Kind {
            language,
            shape,
            packages,
        } = kind;
        self.checked(language, shape.memory_mib)?;
        let host = self.host();
        let (asked, told) = packages;
        let mut which = Which { language, shape };
        if let Some(set) = asked.set(language, &host.config.limits)? {
            let wanted = Wanted::new(set, asked.anew, told);
            wanted.into_shape(host, &mut which).await?;
        }
        Ok(which)
    }
}

impl SandboxBuilder {
    fn new(engine: Engine) -> Self {
        Self {
            engine,
            language: ANY_LANGUAGE,
            shape: Shape::plain(RunRequest::DEFAULT_MEMORY_MIB),
            brought: Brought::NONE,
            network: None,
            times: Times::default(),
            allow_root: false,
            packages: Asked::default(),
            told: Told::default(),
        }
    }

    /// Takes a VM with a warm interpreter of this language: its first run begins at once.
    pub fn language(mut self, language: Language) -> Self {
        self.language = language;
        self
    }

    /// Gives it this much memory, in MiB: 512 unless given.
    pub fn memory_mib(mut self, mib: u32) -> Self {
        self.shape.memory_mib = mib;
        self
    }

    /// Ends it after this time without anything that is asked of it or followed in it. Without one, it is
    /// there until its owner ends it.
    pub fn idle_timeout(mut self, time: Duration) -> Self {
        self.times.idle_timeout = Some(time);
        self
    }

    /// Ends it at this age, whatever runs in it.
    pub fn max_lifetime(mut self, age: Duration) -> Self {
        self.times.max_lifetime = Some(age);
        self
    }

    /// Lets programs ask for the guest's root ([`SpawnRequest::root`](crate::SpawnRequest::root)). Root can
    /// do anything in the guest, also to its agent; the walls around the VM stay.
    pub fn allow_root(mut self) -> Self {
        self.allow_root = true;
        self
    }

    /// Gives it a network.
    pub fn network(mut self, network: Network) -> Self {
        self.shape.network = true;
        self.network = Some(network);
        self
    }

    /// Has its programs find packages of its [language](Self::language). As
    /// [`RunRequest::packages`](crate::RunRequest::packages).
    pub fn packages(mut self, packages: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.packages
            .words
            .extend(packages.into_iter().map(Into::into));
        self
    }

    /// Resolves the packages again, whatever versions they came to before.
    pub fn refresh_packages(mut self) -> Self {
        self.packages.anew = true;
        self
    }

    /// Tells what is done for its packages; `tell` is called in between, and is to return at once.
    pub fn on_package_step(mut self, tell: impl Fn(PackageStep) + Send + Sync + 'static) -> Self {
        self.told = Told::by(tell);
        self
    }

    /// Gives it a network card whose other end nobody holds yet: see [`Sandbox::cable`]. For tests of the card.
    #[doc(hidden)]
    pub fn network_card(mut self) -> Self {
        self.shape.network = true;
        self
    }

    /// Lays a tree of packages over the guest's own. For tests of layers.
    #[doc(hidden)]
    pub fn layer(mut self, layer: Layer) -> Self {
        self.shape.layer = Some(layer);
        self
    }

    /// Has its programs trust these certificate authorities (PEM), and gives them these variables. For tests.
    #[doc(hidden)]
    pub fn brings(mut self, certificates: &str, environment: &[(&str, &str)]) -> Self {
        let variables: EnvVars = environment.iter().copied().collect();
        self.brought = Brought {
            certificates: Some(certificates.into()),
            environment: Some(variables),
        };
        self
    }

    /// Builds the template that such sandboxes begin from, unless it is there: `false`. What a network allows
    /// makes no difference, but whether there is one.
    ///
    /// # Errors
    /// As [`Engine::build_template`].
    pub async fn build_template(self) -> Result<bool, Error> {
        let (engine, kind, _) = self.kind();
        engine.shaped_template(kind).await
    }

    fn kind(self) -> (Engine, Kind, Brought) {
        let kind = Kind {
            language: self.language,
            shape: self.shape,
            packages: (self.packages, self.told),
        };
        (self.engine, kind, self.brought)
    }

    async fn start(self) -> Result<Sandbox, Error> {
        let prepared = self.network.as_ref().map(Network::prepare).transpose()?;
        let (times, allow_root) = (self.times, self.allow_root);
        let (engine, kind, own) = self.kind();
        let brought = prepared.as_ref().map_or(own, Prepared::brought);
        let sandbox = engine
            .fresh_sandbox(kind, &brought, prepared, times)
            .await?;
        if allow_root {
            sandbox.allow_root().await?;
        }
        Ok(sandbox)
    }
}

impl IntoFuture for SandboxBuilder {
    type Output = Result<Sandbox, Error>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.start())
    }
}
