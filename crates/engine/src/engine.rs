use std::io::Write;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use fumehood_protocol::{Language, Limits};
use tokio::task::JoinHandle;

use crate::agent::GuestInit;
use crate::agent_connection::AgentConnection;
use crate::config::{Config, Qemu, TemplateUse, image_error, open_store};
use crate::error::{Error, ErrorKind};
use crate::host::{Accelerator, allows_hot_images, check_descriptor_limit, select_accelerator};
use crate::layers::PackageLayers;
use crate::network::{ActiveNetwork, PreparedNetwork, Uplink};
use crate::packages::ProgressCallback;
use crate::provision::{ANY_LANGUAGE, Capacity, PoolStatus, Provisioner, VmStats, replenish};
use crate::run::{
    Event, NetworkEventForwarder, OutcomeBuilder, Run, RunDriver, RunEnd, RunRequest, VmOwner,
};
use crate::sandbox::{Checkpoint, OneShotRun, Sandbox, SandboxTimeouts};
use crate::snapshot::{HotImages, TemplateSpec, Templates};
use crate::vm::{Shape, VmFactory, launch_config};

/// The engine of this host: starts VMs and runs code in them.
///
/// Cheap to clone. When the last clone is dropped, the pool and background work end; sandboxes and runs continue.
#[derive(Debug, Clone)]
pub struct Engine(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    provisioner: Arc<Provisioner>,
    accelerator_reason: String,
    /// Builds templates and hot images, and fills the pool; started in the first tokio runtime that uses the engine.
    replenisher: OnceLock<JoinHandle<()>>,
}

/// The hot images that an engine can use. Returned by [`Engine::hot_images`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct HotImageStatus {
    /// Whether they are used: with software emulation, unless the configuration forbids it.
    pub are_used: bool,
    /// How many the store has.
    pub images: usize,
    /// Their size on disk, in bytes.
    pub bytes: u64,
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Some(replenisher) = self.replenisher.get() {
            replenisher.abort();
        }
        self.provisioner.pool.clear();
    }
}

impl Engine {
    /// Finds QEMU and the image, and selects the accelerator. This takes a few milliseconds. Work begins in the
    /// background if the configuration has a [`Pool`](crate::Pool): call this inside a tokio runtime then.
    ///
    /// # Errors
    /// Returns [`ErrorKind::Missing`] or [`ErrorKind::Damaged`] with the command that fixes it, and
    /// [`ErrorKind::Host`] if this host does not permit something.
    pub fn start(config: Config) -> Result<Self, Error> {
        config.check()?;
        check_descriptor_limit()?;
        let qemu = Qemu::find(&config)?;
        let store = open_store(&config)?;
        store.remove_leftovers_in_background();
        let image = store.image(&config.image).map_err(image_error)?;

        // Everything that does not depend on a request is found once, here.
        let selected =
            select_accelerator(config.accelerator, Some(&qemu.program), Some(store.root()))?;
        let accelerator = selected.accelerator;
        let launch_config = launch_config(&config, &qemu, accelerator, store.root())?;
        let factory = VmFactory::new(launch_config, accelerator, image, &config.limits)?;
        let templates = Templates::new(&store, &qemu, &factory)?;

        // With KVM there is no translated code to save.
        let are_hot_images_used = config.hot_images
            && config.templates != TemplateUse::Never
            && accelerator == Accelerator::Tcg
            && allows_hot_images();
        let hot_images = HotImages::new(&store, are_hot_images_used);
        let provisioner = Provisioner::new(
            config,
            factory,
            accelerator,
            templates,
            hot_images,
            store.layers(),
            store.saved_states(),
        );
        let engine = Self(Arc::new(Inner {
            provisioner: Arc::new(provisioner),
            accelerator_reason: selected.reason,
            replenisher: OnceLock::new(),
        }));
        engine.start_replenisher();

        Ok(engine)
    }

    pub(crate) fn provisioner(&self) -> &Arc<Provisioner> {
        &self.0.provisioner
    }

    /// Starts the background task if the configuration needs one and it does not run yet.
    fn start_replenisher(&self) {
        let provisioner = &self.0.provisioner;
        let config = &provisioner.config;
        let is_needed = config.templates == TemplateUse::UseAndBuild || config.pool.is_enabled();

        if !is_needed {
            return;
        }

        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let start = || runtime.spawn(replenish(provisioner.clone()));
            self.0.replenisher.get_or_init(start);
        }
    }

    /// Returns the accelerator that executes the guests' instructions.
    #[must_use]
    pub fn accelerator(&self) -> Accelerator {
        self.0.provisioner.accelerator
    }

    /// Returns why this accelerator was selected, as a phrase for people.
    #[must_use]
    pub fn accelerator_reason(&self) -> &str {
        &self.0.accelerator_reason
    }

    /// Returns how often VMs came from which origin.
    #[must_use]
    pub fn vm_stats(&self) -> VmStats {
        self.0.provisioner.counters.read()
    }

    /// Returns the engine's capacity for VMs, and the length of its queue.
    #[must_use]
    pub fn capacity(&self) -> Capacity {
        self.0.provisioner.admission.capacity()
    }

    /// Returns the id of the image that guests run.
    #[must_use]
    pub fn image_id(&self) -> String {
        self.0.provisioner.factory.image().id().to_string()
    }

    /// Returns the limits of requests.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.0.provisioner.config.limits
    }

    /// Returns how many hot VMs are ready now.
    #[must_use]
    pub fn pool_status(&self) -> PoolStatus {
        self.0.provisioner.pool.status()
    }

    /// Returns the hot images that the store has.
    #[must_use]
    pub fn hot_images(&self) -> HotImageStatus {
        let hot_images = &self.0.provisioner.hot_images;
        let listed = hot_images.shelf().list().unwrap_or_default();
        let usable = listed.iter().filter(|image| image.is_usable);
        HotImageStatus {
            are_used: hot_images.are_used(),
            images: usable.clone().count(),
            bytes: usable.map(|image| image.bytes).sum(),
        }
    }

    /// Runs one program in a fresh VM. The request is validated at once; the VM is started in the background. Must be
    /// called inside a tokio runtime.
    ///
    /// # Errors
    /// Returns [`ErrorKind::Invalid`] with the value and its limit, and [`ErrorKind::Host`] if a file to upload cannot
    /// be read.
    pub fn run(&self, request: RunRequest) -> Result<Run, Error> {
        self.start_replenisher();
        let provisioner = self.0.provisioner.clone();
        let limits = provisioner.config.limits;
        let (exec, timeout) = request.check(&limits)?;
        let network = request.prepared()?;
        let packages = request.packages.set(request.language, &limits)?;
        let shape = Shape {
            network: network.is_some(),
            ..Shape::plain(request.memory())
        };
        let mut spec = TemplateSpec::plain(request.language, shape);

        let init = network
            .as_ref()
            .map_or(GuestInit::NONE, PreparedNetwork::init);

        Ok(Run::drive(move |events, mut controls| async move {
            let outcome = OutcomeBuilder::new(provisioner.accelerator);

            // Acquire a VM with the packages, unless the caller cancels meanwhile.
            let acquire = async {
                let mut resolved = Vec::new();
                if let Some(set) = packages {
                    let step_events = events.clone();
                    let progress = ProgressCallback::by(move |step| {
                        let _ = step_events.try_send(Event::Packages(step));
                    });
                    let unpinned = set.is_unpinned();
                    let layers = PackageLayers::new(set, request.packages.force, progress);
                    resolved = layers.ensure(&provisioner, &mut spec).await?;
                    let packages = resolved.clone();
                    let _ = events.try_send(Event::PackagesReady { packages, unpinned });
                }

                let acquired = provisioner.acquire(&spec, &init).await?;
                Ok::<_, Error>((acquired, resolved))
            };

            let (acquired, resolved) = tokio::select! {
                acquired = acquire => acquired?,
                () = controls.cancelled() => {
                    let outcome = outcome.downloads(request.transfers.cancelled_downloads());
                    return Ok(RunEnd::Outcome(Box::new(outcome.finish())));
                }
            };

            let outcome = outcome
                .packages(resolved)
                .vm(acquired.source, acquired.vm.isolation())
                .acquired(acquired.queue, acquired.vm.start);

            let _ = events.try_send(Event::Ready {
                source: acquired.source,
            });

            // Files need a sandbox around the VM.
            if !request.transfers.is_empty() {
                let sandbox =
                    Sandbox::new(provisioner, acquired, network, SandboxTimeouts::default())?;
                let run = OneShotRun {
                    exec,
                    timeout,
                    transfers: request.transfers,
                    outcome,
                };

                return sandbox.run_with_files(run, events, &mut controls).await;
            }

            // Without files, the run owns the VM.
            let uplink = acquired
                .network
                .map(|cable| Uplink::connect(cable, network));

            let uplink = uplink.transpose()?;
            let active = uplink.as_ref().and_then(Uplink::active);
            let forwarder =
                active.map(|network| NetworkEventForwarder::start(network, events.clone()));
            // The channel and the reservation are released when the VM has ended.
            let (channel, _reservation) = (acquired.agent, acquired.reservation);
            let driver = RunDriver::exec(&channel, exec, timeout, outcome, &limits);
            let owner = VmOwner::Run(Box::new(acquired.vm));
            let outcome = driver.drive(events, &mut controls, owner).await?;

            if let Some(forwarder) = forwarder {
                forwarder.finish().await;
            }

            Ok(match outcome {
                Some(outcome) => {
                    let outcome = outcome.network(active.map(ActiveNetwork::outcome));
                    RunEnd::Outcome(Box::new(outcome.finish()))
                }
                None => RunEnd::Detached,
            })
        }))
    }

    /// Starts a sandbox from a saved state. It has no idle timeout and no maximum lifetime until they are set.
    ///
    /// # Errors
    /// Returns [`ErrorKind::Busy`], [`ErrorKind::Host`] or [`ErrorKind::Boot`].
    pub async fn open(&self, checkpoint: &Checkpoint) -> Result<Sandbox, Error> {
        let provisioner = self.0.provisioner.clone();
        Sandbox::open(provisioner, checkpoint, SandboxTimeouts::default()).await
    }

    /// Builds the template of a language, for guests with this much memory. Returns `false` if it existed, or another
    /// process built it meanwhile.
    ///
    /// # Errors
    /// As [`open`](Self::open), and [`ErrorKind::Host`] if it cannot be saved.
    pub async fn build_template(&self, language: Language, memory_mib: u32) -> Result<bool, Error> {
        let spec = self.checked_spec(language, memory_mib)?;
        self.0.provisioner.build_template(&spec).await
    }

    /// Validates the memory of a VM.
    pub(crate) fn checked_spec(
        &self,
        language: Language,
        memory_mib: u32,
    ) -> Result<TemplateSpec, Error> {
        self.start_replenisher();
        let request = RunRequest::new(language, "").memory_mib(memory_mib);
        request.check(&self.0.provisioner.config.limits)?;
        Ok(TemplateSpec::plain(language, Shape::plain(memory_mib)))
    }

    /// Measures the floor of boot times: boots the image's kernel with `init` as its first process, on the machine
    /// that runs get, and returns the time from starting QEMU to the first byte on the console.
    ///
    /// # Errors
    /// Returns [`ErrorKind::Host`] or [`ErrorKind::Boot`].
    pub async fn floor(&self, init: &[u8]) -> Result<Duration, Error> {
        let failed = |e: std::io::Error| {
            let message = format!("cannot create a file in memory for the initrd: {e}");
            Error::new(ErrorKind::Host, message)
        };

        let mut file = fumehood_sys::host::memory_file("floor-initrd").map_err(failed)?;
        file.write_all(&fumehood_image::floor_initrd(init))
            .map_err(failed)?;

        let provisioner = &self.0.provisioner;
        let deadline = provisioner.config.boot_deadline;

        provisioner.factory.floor(file.into(), deadline).await
    }

    /// Starts a VM whose agent is served to clients of another program. See [`AgentConnection`].
    ///
    /// # Errors
    /// As [`run`](Self::run), and [`ErrorKind::Boot`].
    pub async fn agent_line(&self, memory_mib: u32) -> Result<AgentConnection, Error> {
        let spec = self.checked_spec(ANY_LANGUAGE, memory_mib)?;
        let acquired = self
            .0
            .provisioner
            .acquire_socket(&spec, &GuestInit::NONE, 0);
        Ok(AgentConnection::new(acquired.await?))
    }
}
