use std::future::IntoFuture;
use std::pin::Pin;
use std::time::Duration;

use fumehood_protocol::{EnvVars, Language};

use crate::engine::Engine;
use crate::error::Error;
use crate::greeting::Brought;
use crate::host::ANY_LANGUAGE;
use crate::layer::Layer;
use crate::machine::Shape;
use crate::network::{Network, Prepared};
use crate::run::RunRequest;
use crate::sandbox::{Sandbox, Times};

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
}

impl SandboxBuilder {
    pub(crate) fn new(engine: Engine) -> Self {
        Self {
            engine,
            language: ANY_LANGUAGE,
            shape: Shape::plain(RunRequest::DEFAULT_MEMORY_MIB),
            brought: Brought::NONE,
            network: None,
            times: Times::default(),
            allow_root: false,
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
        self.engine.shaped_template(self.language, self.shape).await
    }

    async fn start(self) -> Result<Sandbox, Error> {
        let prepared = self.network.as_ref().map(Network::prepare).transpose()?;
        let brought = prepared.as_ref().map_or(self.brought, Prepared::brought);
        let sandbox = self
            .engine
            .fresh_sandbox(self.language, self.shape, &brought, prepared, self.times)
            .await?;
        if self.allow_root {
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
