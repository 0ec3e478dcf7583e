use std::collections::HashSet;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use fumehood_image::{Layers, SavedStates};
use fumehood_protocol::{Language, PROTOCOL_VERSION};
use tokio::net::UnixStream;
use tokio::sync::OwnedSemaphorePermit;

use super::admission::{Admission, MemoryReservation};
use super::counters::Counters;
use super::pool::VmPool;
use crate::agent::{Channel, GuestInit};
use crate::config::{Config, TemplateUse};
use crate::error::{Error, ErrorKind};
use crate::host::Accelerator;
use crate::run::VmOrigin;
use crate::snapshot::{
    HotImages, Snapshot, TemplateSpec, Templates, WaitingProcess, continue_guest,
};
use crate::vm::{Machine, Shape, StartedVm, Vm, VmFactory};

/// The language whose template serves VMs without a language: the smallest template.
pub(crate) const ANY_LANGUAGE: Language = Language::Shell;

/// Provides VMs by the fastest way that is available.
#[derive(Debug)]
pub(crate) struct Provisioner {
    pub(crate) config: Config,
    pub(crate) factory: VmFactory,
    pub(crate) accelerator: Accelerator,
    pub(crate) admission: Admission,
    pub(crate) templates: Templates,
    pub(crate) hot_images: HotImages,
    pub(crate) layers: Layers,
    pub(crate) states: SavedStates,
    pub(crate) pool: VmPool,
    pub(crate) counters: Counters,
    /// Templates and hot images that were requested and do not exist.
    pub(super) missing: Mutex<HashSet<TemplateSpec>>,
}

/// A VM that was acquired for one user, with its guest refreshed. `C` is the connection to its agent.
#[derive(Debug)]
pub(crate) struct AcquiredVm<C> {
    pub(crate) vm: Vm,
    pub(crate) agent: C,
    pub(crate) machine: Machine,
    /// The cable of its network card, if it has one: see [`Network`](crate::network::Network).
    pub(crate) network: Option<UnixStream>,
    pub(crate) reservation: MemoryReservation,
    pub(crate) source: VmOrigin,
    /// The snapshot that it was restored from.
    pub(crate) base: Option<Snapshot>,
    /// How long the request waited for capacity.
    pub(crate) queue: Duration,
}

/// The first messages to a new guest.
#[derive(Debug, Clone, Copy)]
struct Greeting<'a> {
    init: &'a GuestInit,
    protocol: u32,
}

/// A request that may start a VM now.
struct Admitted {
    reservation: MemoryReservation,
    /// Held until the VM has started.
    _turn: OwnedSemaphorePermit,
    /// How long it waited.
    queue: Duration,
}

/// A VM that has started, and where it came from.
struct Started {
    vm: StartedVm,
    machine: Machine,
    source: VmOrigin,
    base: Option<Snapshot>,
}

impl Started {
    fn from_state(vm: StartedVm, state: &Snapshot, source: VmOrigin) -> Self {
        Self {
            vm,
            machine: state.machine().clone(),
            source,
            base: Some(state.clone()),
        }
    }
}

impl Provisioner {
    pub(crate) fn new(
        config: Config,
        factory: VmFactory,
        accelerator: Accelerator,
        templates: Templates,
        hot_images: HotImages,
        layers: Layers,
        states: SavedStates,
    ) -> Self {
        let admission = Admission::new(&config);
        Self {
            config,
            factory,
            accelerator,
            admission,
            templates,
            hot_images,
            layers,
            states,
            pool: VmPool::default(),
            counters: Counters::default(),
            missing: Mutex::default(),
        }
    }

    /// Acquires a VM by the fastest way: a hot VM, a hot image, a template, a boot.
    ///
    /// # Errors
    /// Returns [`ErrorKind::Busy`], [`ErrorKind::Host`] or [`ErrorKind::Boot`].
    pub(crate) async fn acquire(
        &self,
        spec: &TemplateSpec,
        init: &GuestInit,
    ) -> Result<AcquiredVm<Channel>, Error> {
        // A hot VM was refreshed already, and cannot be given anything.
        if *init == GuestInit::NONE
            && let Some(hot) = self.take_hot(spec)
        {
            return Ok(hot);
        }

        let acquired = self.acquire_socket(spec, init, PROTOCOL_VERSION).await?;
        Ok(acquired.map(Channel::new))
    }

    /// Acquires a VM that is not hot; its agent has been greeted in this version of the protocol.
    ///
    /// # Errors
    /// As [`acquire`](Self::acquire).
    pub(crate) async fn acquire_socket(
        &self,
        spec: &TemplateSpec,
        init: &GuestInit,
        protocol: u32,
    ) -> Result<AcquiredVm<UnixStream>, Error> {
        let admitted = self.admit(spec.shape.memory_mib).await?;
        let greeting = Greeting { init, protocol };

        let (started, failure) = match self.continue_hot_image(spec, greeting).await {
            Some(Ok(started)) => (started, None),
            Some(Err(error)) => (self.start_without_image(spec, greeting).await?, Some(error)),
            None => (self.start_without_image(spec, greeting).await?, None),
        };

        // The other start shows that the host is not at fault, which may be short of memory or descriptors.
        if let Some(error) = failure {
            let reason = error.to_string();
            self.hot_images
                .discard(&self.templates, &self.factory, spec, &reason);
        }

        self.request_missing(spec, started.source, protocol);
        Ok(self.acquired(started, admitted))
    }

    /// Starts a VM from the state of a sandbox.
    ///
    /// # Errors
    /// As [`acquire`](Self::acquire), and [`ErrorKind::Damaged`].
    pub(crate) async fn open_checkpoint(
        &self,
        state: &Snapshot,
        init: &GuestInit,
    ) -> Result<AcquiredVm<Channel>, Error> {
        let greeting = Greeting {
            init,
            protocol: PROTOCOL_VERSION,
        };

        let admitted = self.admit(state.machine().shape.memory_mib).await?;
        let started = match self.continue_process(state, greeting).await {
            Some(Ok(started)) => started,
            _ => self.restore(state, greeting).await?,
        };

        let started = Started::from_state(started, state, VmOrigin::Checkpoint);
        Ok(self.acquired(started, admitted).map(Channel::new))
    }

    /// Takes a hot VM, if the pool has one.
    fn take_hot(&self, spec: &TemplateSpec) -> Option<AcquiredVm<Channel>> {
        let start = Instant::now();
        let mut hot = self.pool.take(spec)?;
        hot.vm.start = start.elapsed();
        self.counters.count(VmOrigin::Hot);

        Some(AcquiredVm {
            vm: hot.vm,
            agent: hot.channel,
            machine: hot.base.machine().clone(),
            // The pool has no VMs with a network card.
            network: None,
            reservation: hot.reservation,
            source: VmOrigin::Hot,
            base: Some(hot.base),
            queue: Duration::ZERO,
        })
    }

    /// Waits for the memory of a VM and a turn to start it.
    ///
    /// # Errors
    /// Returns [`ErrorKind::Busy`] and [`ErrorKind::Host`].
    async fn admit(&self, memory_mib: u32) -> Result<Admitted, Error> {
        let start = Instant::now();
        let reserved = self
            .admission
            .reserve_with_turn(memory_mib, || self.pool.clear());
        let (reservation, turn) = reserved.await?;

        Ok(Admitted {
            reservation,
            _turn: turn,
            queue: start.elapsed(),
        })
    }

    /// Continues the hot image of a specification. Returns `None` if there is none.
    async fn continue_hot_image(
        &self,
        spec: &TemplateSpec,
        greeting: Greeting<'_>,
    ) -> Option<Result<Started, Error>> {
        let image = self.hot_image(spec, greeting.protocol)?;
        let continued = self.continue_process(&image, greeting).await?;
        Some(continued.map(|started| Started::from_state(started, &image, VmOrigin::HotImage)))
    }

    async fn start_without_image(
        &self,
        spec: &TemplateSpec,
        greeting: Greeting<'_>,
    ) -> Result<Started, Error> {
        match self.restore_template(spec, greeting).await {
            Some(started) => Ok(started),
            None => self.boot(&spec.shape, greeting).await,
        }
    }

    /// Restores the template of a specification. Returns `None` if there is none, or if it cannot be restored: a boot does
    /// not need it.
    async fn restore_template(
        &self,
        spec: &TemplateSpec,
        greeting: Greeting<'_>,
    ) -> Option<Started> {
        let template = self.template(spec)?;
        match self.restore(&template, greeting).await {
            Ok(started) => Some(Started::from_state(started, &template, VmOrigin::Template)),
            Err(error) => {
                if error.kind() == ErrorKind::Damaged {
                    self.counters.count_discarded_template();
                    self.templates.forget(&self.factory, spec);
                }
                None
            }
        }
    }

    /// Continues the process that was saved with a state. Returns `None` if none was, or if the protocol needs another
    /// greeting. A failure is counted.
    async fn continue_process(
        &self,
        state: &Snapshot,
        greeting: Greeting<'_>,
    ) -> Option<Result<StartedVm, Error>> {
        if state.process().is_none() || greeting.protocol != PROTOCOL_VERSION {
            return None;
        }

        let deadline = self.config.restore_deadline;
        let continued = continue_guest(&self.factory, state, greeting.init, deadline).await;
        Some(continued.inspect_err(|error| {
            self.counters.count_failed_continuation();
            tracing::warn!(%error, "continuing a VM failed");
        }))
    }

    /// Restores a state into a new QEMU, with one retry: that helps if the host was overloaded. Failures are counted.
    ///
    /// # Errors
    /// Returns [`ErrorKind::Boot`], [`ErrorKind::Damaged`] and [`ErrorKind::Host`].
    async fn restore(&self, state: &Snapshot, greeting: Greeting<'_>) -> Result<StartedVm, Error> {
        let attempt = async || {
            let start = Instant::now();
            let Greeting { init, protocol } = greeting;
            let deadline = self.config.restore_deadline;
            let process = WaitingProcess::start(&self.factory, state).await?;
            let restored = process.restore(state, &self.factory, init, protocol, deadline);
            let mut restored = restored.await?;
            restored.vm.start = start.elapsed();
            Ok::<_, Error>(restored)
        };
        let count = |error: &Error| {
            self.counters.count_failed_restore();
            tracing::warn!(%error, "restoring a VM failed");
        };

        match attempt().await.inspect_err(count) {
            Err(error) if error.kind() == ErrorKind::Boot => attempt().await.inspect_err(count),
            other => other,
        }
    }

    async fn boot(&self, shape: &Shape, greeting: Greeting<'_>) -> Result<Started, Error> {
        let deadline = self.config.boot_deadline;
        let machine = self.factory.machine(shape.clone());
        let Greeting { init, protocol } = greeting;
        let booted = self.factory.boot(&machine, init, protocol, deadline);

        Ok(Started {
            vm: booted.await?,
            machine,
            source: VmOrigin::Boot,
            base: None,
        })
    }

    fn acquired(&self, started: Started, admitted: Admitted) -> AcquiredVm<UnixStream> {
        self.counters.count(started.source);
        AcquiredVm {
            vm: started.vm.vm,
            agent: started.vm.agent,
            machine: started.machine,
            network: started.vm.network,
            reservation: admitted.reservation,
            source: started.source,
            base: started.base,
            queue: admitted.queue,
        }
    }

    /// Returns the hot image to continue from.
    fn hot_image(&self, spec: &TemplateSpec, protocol: u32) -> Option<Snapshot> {
        // An image is saved in a conversation of the current version.
        if protocol != PROTOCOL_VERSION {
            return None;
        }
        self.hot_images.find(&self.templates, &self.factory, spec)
    }

    /// Returns the template to restore from.
    fn template(&self, spec: &TemplateSpec) -> Option<Snapshot> {
        if self.config.templates == TemplateUse::Never {
            return None;
        }
        self.templates.find(&self.factory, spec)
    }
}

impl<A> AcquiredVm<A> {
    /// Converts the connection to the agent.
    pub(crate) fn map<B>(self, convert: impl FnOnce(A) -> B) -> AcquiredVm<B> {
        AcquiredVm {
            vm: self.vm,
            agent: convert(self.agent),
            machine: self.machine,
            network: self.network,
            reservation: self.reservation,
            source: self.source,
            base: self.base,
            queue: self.queue,
        }
    }
}
