use std::collections::{HashSet, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use fumehood_image::Layers;
use fumehood_protocol::{Language, PROTOCOL_VERSION};
use tokio::net::UnixStream;

use super::admission::{Admission, MemoryReservation};
use super::counters::Counters;
use super::pool::VmPool;
use crate::agent::{Channel, GuestInit};
use crate::config::{Config, TemplateUse};
use crate::error::{Error, ErrorKind};
use crate::host::Accelerator;
use crate::run::VmOrigin;
use crate::snapshot::{
    BuildResult, HotImages, Snapshot, StandbyProcess, TemplateSpec, Templates, continue_guest,
};
use crate::vm::{Machine, Shape, StartedVm, Vm, VmFactory};

/// The language whose template serves VMs without a language: the smallest template.
pub(crate) const ANY_LANGUAGE: Language = Language::Shell;

/// Maximum number of specifications with a package set of which the pool has hot VMs.
const MAX_POOL_BUNDLES: usize = 2;

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
    pub(crate) pool: VmPool,
    pub(crate) counters: Counters,
    /// Templates that were requested and do not exist.
    missing: Mutex<HashSet<TemplateSpec>>,
    /// Specifications with a package set that were requested, the latest last: the pool has hot VMs of them, too.
    bundles: Mutex<VecDeque<TemplateSpec>>,
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

impl Provisioner {
    pub(crate) fn new(
        config: Config,
        factory: VmFactory,
        accelerator: Accelerator,
        templates: Templates,
        hot_images: HotImages,
        layers: Layers,
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
            pool: VmPool::default(),
            counters: Counters::default(),
            missing: Mutex::default(),
            bundles: Mutex::default(),
        }
    }

    /// Acquires a VM by the fastest way: a hot VM, a standby process, a template, a boot.
    ///
    /// # Errors
    /// Returns [`ErrorKind::Busy`], [`ErrorKind::Host`] or [`ErrorKind::Boot`].
    pub(crate) async fn acquire(
        &self,
        spec: &TemplateSpec,
        init: &GuestInit,
    ) -> Result<AcquiredVm<Channel>, Error> {
        let start = Instant::now();

        // A hot VM was refreshed already, and cannot be given anything.
        if *init == GuestInit::NONE
            && let Some(mut hot) = self.pool.take_hot(spec)
        {
            hot.vm.start = start.elapsed();
            self.counters.count(VmOrigin::Hot);
            return Ok(AcquiredVm {
                vm: hot.vm,
                agent: hot.channel,
                machine: hot.base.machine().clone(),
                // The pool has no VMs with a network card.
                network: None,
                reservation: hot.reservation,
                source: VmOrigin::Hot,
                base: Some(hot.base),
                queue: Duration::ZERO,
            });
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
        if let Some(image) = self.hot_image(spec, protocol) {
            match self
                .restore(&image, init, protocol, VmOrigin::HotImage)
                .await
            {
                Err(error) if error.kind() != ErrorKind::Busy => {
                    self.hot_images
                        .discard(&self.templates, &self.factory, spec, &error);
                }
                other => return other,
            }
        }

        let Some(base) = self.template(spec) else {
            return self.boot(&spec.shape, init, protocol).await;
        };

        // A standby process saves the start of QEMU.
        if let Some((standby, reservation)) = self.pool.take_standby(&base) {
            let deadline = self.config.restore_deadline;
            let restored = standby.restore(&base, &self.factory, init, protocol, deadline);
            match restored.await {
                Ok(restored) => {
                    let machine = base.machine().clone();
                    let source = VmOrigin::Standby;
                    return Ok(self.acquired(restored, machine, reservation, source, Some(base)));
                }
                Err(error) => self.count_failure(&error),
            }
        }

        let error = match self
            .restore(&base, init, protocol, VmOrigin::Template)
            .await
        {
            Ok(acquired) => return Ok(acquired),
            Err(error) => error,
        };

        if error.kind() == ErrorKind::Busy {
            return Err(error);
        }

        // Whatever is wrong with the template, a boot does not need it.
        if error.kind() == ErrorKind::Damaged {
            self.counters.count_discarded_template();
            self.templates.forget(&self.factory, spec);
        }

        self.boot(&spec.shape, init, protocol).await
    }

    /// Restores a VM from this snapshot, with one retry.
    ///
    /// # Errors
    /// As [`acquire`](Self::acquire), and [`ErrorKind::Damaged`].
    pub(crate) async fn restore(
        &self,
        base: &Snapshot,
        init: &GuestInit,
        protocol: u32,
        source: VmOrigin,
    ) -> Result<AcquiredVm<UnixStream>, Error> {
        let start = Instant::now();
        let machine = base.machine();
        let reserved = self
            .admission
            .reserve_with_turn(machine.shape.memory_mib, || self.pool.clear());

        let (reservation, _turn) = reserved.await?;
        let queue = start.elapsed();

        // Start a process and restore into it. A second attempt helps if the host was overloaded.
        let attempt = || async {
            let start = Instant::now();
            let deadline = self.config.restore_deadline;
            let bases = std::slice::from_ref(base);
            let standby = StandbyProcess::start(&self.factory, machine.clone(), bases).await?;
            let restored = standby.restore(base, &self.factory, init, protocol, deadline);
            let mut restored = restored.await?;
            restored.vm.start = start.elapsed();
            Ok::<_, Error>(restored)
        };

        let continued = match base.process() {
            Some(_) if protocol == PROTOCOL_VERSION => {
                let deadline = self.config.restore_deadline;
                Some(continue_guest(&self.factory, base, init, deadline).await)
            }
            _ => None,
        };
        let continued = match continued {
            Some(Ok(continued)) => Some(continued),
            Some(Err(error)) => {
                self.count_failure(&error);
                // A hot image is nothing but its process.
                if base.state().is_empty() {
                    return Err(error);
                }
                None
            }
            None => None,
        };
        if let Some(continued) = continued {
            let base = Some(base.clone());
            return Ok(AcquiredVm {
                queue,
                ..self.acquired(continued, machine.clone(), reservation, source, base)
            });
        }

        let restored = match attempt().await {
            Err(error) if error.kind() == ErrorKind::Boot => {
                self.count_failure(&error);
                attempt().await
            }
            other => other,
        };

        let restored = restored.inspect_err(|error| self.count_failure(error))?;

        let base = Some(base.clone());

        Ok(AcquiredVm {
            queue,
            ..self.acquired(restored, machine.clone(), reservation, source, base)
        })
    }

    async fn boot(
        &self,
        shape: &Shape,
        init: &GuestInit,
        protocol: u32,
    ) -> Result<AcquiredVm<UnixStream>, Error> {
        let start = Instant::now();
        let reserved = self
            .admission
            .reserve_with_turn(shape.memory_mib, || self.pool.clear());

        let (reservation, _turn) = reserved.await?;
        let queue = start.elapsed();

        let deadline = self.config.boot_deadline;
        let machine = self.factory.machine(shape.clone());
        let booted = self
            .factory
            .boot(&machine, init, protocol, deadline)
            .await?;

        Ok(AcquiredVm {
            queue,
            ..self.acquired(booted, machine, reservation, VmOrigin::Boot, None)
        })
    }

    fn acquired(
        &self,
        started: StartedVm,
        machine: Machine,
        reservation: MemoryReservation,
        source: VmOrigin,
        base: Option<Snapshot>,
    ) -> AcquiredVm<UnixStream> {
        self.counters.count(source);
        AcquiredVm {
            vm: started.vm,
            agent: started.agent,
            machine,
            network: started.network,
            reservation,
            source,
            base,
            queue: Duration::ZERO,
        }
    }

    /// Returns the hot image to continue from. If there is none, it is requested.
    fn hot_image(&self, spec: &TemplateSpec, protocol: u32) -> Option<Snapshot> {
        let are_used = self.accelerator == Accelerator::Tcg
            && self.config.templates != TemplateUse::Never
            && protocol == PROTOCOL_VERSION;
        if !are_used {
            return None;
        }

        let image = self.hot_images.find(&self.templates, &self.factory, spec);
        if image.is_none() {
            self.request_template(spec);
        }
        image
    }

    /// Returns the template to restore from. If it does not exist, it is requested.
    fn template(&self, spec: &TemplateSpec) -> Option<Snapshot> {
        if self.config.templates == TemplateUse::Never {
            return None;
        }

        let template = self.templates.find(&self.factory, spec);
        if template.is_none() {
            self.request_template(spec);
        }

        template
    }

    /// Creates the hot image of a template. Returns `false` if there is one.
    ///
    /// # Errors
    /// As a restore, and [`ErrorKind::Host`] if this host does not support hot images.
    async fn build_hot_image(&self, spec: &TemplateSpec) -> Result<bool, Error> {
        if self.accelerator != Accelerator::Tcg {
            return Ok(false);
        }
        let Some(template) = self.templates.find(&self.factory, spec) else {
            return Ok(false);
        };
        let deadline = self.config.boot_deadline;
        let built =
            self.hot_images
                .build(&self.templates, &self.factory, spec, &template, deadline);
        match built.await? {
            BuildResult::Saved => Ok(true),
            BuildResult::Unsaved(why) => {
                let message = format!("cannot save a hot image: {why}");
                Err(Error::new(ErrorKind::Host, message))
            }
            BuildResult::Elsewhere => Ok(false),
        }
    }

    /// Returns whether a template is on disk.
    pub(crate) fn has_template(&self, spec: &TemplateSpec) -> bool {
        self.templates.has(&self.factory, spec)
    }

    /// Builds a template, and its hot image where those are used. Returns `false` if both exist. A hot image that cannot be
    /// created is reported in the log: requests use the template then.
    ///
    /// # Errors
    /// As a boot; [`ErrorKind::Host`] if it cannot be saved, [`ErrorKind::Busy`] if another process does not finish it.
    pub(crate) async fn build_template(&self, spec: &TemplateSpec) -> Result<bool, Error> {
        let is_new = self.build_only_template(spec).await?;
        match self.build_hot_image(spec).await {
            Ok(is_new_image) => Ok(is_new || is_new_image),
            Err(error) => {
                tracing::warn!(%error, "creating a hot image failed");
                Ok(is_new)
            }
        }
    }

    async fn build_only_template(&self, spec: &TemplateSpec) -> Result<bool, Error> {
        const POLL_INTERVAL: Duration = Duration::from_millis(200);

        // Another process may be building the same template: wait for it, within limits.
        let start = Instant::now();

        loop {
            if self.has_template(spec) {
                return Ok(false);
            }

            let deadline = self.config.boot_deadline;
            match self.templates.build(&self.factory, spec, deadline).await? {
                BuildResult::Saved => return Ok(true),
                BuildResult::Unsaved(why) => {
                    let message = format!("cannot save the template: {why}");
                    return Err(Error::new(ErrorKind::Host, message));
                }
                BuildResult::Elsewhere => {}
            }

            if start.elapsed() > self.config.queue_deadline {
                let message = "timed out waiting for another process to build this template";
                return Err(Error::new(ErrorKind::Busy, message));
            }

            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    /// Has the replenisher build a template, if the configuration allows that.
    fn request_template(&self, spec: &TemplateSpec) {
        if self.config.templates == TemplateUse::UseAndBuild {
            self.missing().insert(spec.clone());
            self.pool.changed.notify_one();
        }
    }

    /// Takes one of the templates that were requested and do not exist.
    pub(crate) fn take_missing_template(&self) -> Option<TemplateSpec> {
        let mut missing = self.missing();
        let next = missing.iter().next()?.clone();
        missing.remove(&next);
        Some(next)
    }

    fn missing(&self) -> std::sync::MutexGuard<'_, HashSet<TemplateSpec>> {
        self.missing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count_failure(&self, error: &Error) {
        self.counters.count_failed_restore();
        tracing::warn!(%error, "restoring a VM failed");
    }

    /// Lets the pool have hot VMs of this specification if it has a package set, and they would be of use to requests
    /// with the pool's memory and no network.
    pub(crate) fn pool_bundle(&self, spec: &TemplateSpec) {
        let pool = &self.config.pool;
        let is_eligible = spec.bundle.is_some()
            && !spec.shape.network
            && spec.shape.memory_mib == pool.memory_mib
            && pool.languages.contains(&spec.language)
            && pool.warm_vms > 0;
        if !is_eligible {
            return;
        }

        // The latest ones stay.
        let mut bundles = self.bundles();
        if bundles.contains(spec) {
            return;
        }
        bundles.push_back(spec.clone());
        let dropped = (bundles.len() > MAX_POOL_BUNDLES).then(|| bundles.pop_front());
        drop(bundles);

        if let Some(dropped) = dropped.flatten() {
            self.pool.remove_hot(&dropped);
        }
        self.pool.changed.notify_one();
    }

    /// Returns the specifications with package sets of which the pool has hot VMs.
    pub(crate) fn bundle_specs(&self) -> Vec<TemplateSpec> {
        self.bundles().iter().cloned().collect()
    }

    fn bundles(&self) -> std::sync::MutexGuard<'_, VecDeque<TemplateSpec>> {
        self.bundles.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the specifications of the VMs in the pool.
    pub(crate) fn pool_specs(&self) -> Vec<TemplateSpec> {
        let pool = &self.config.pool;
        let memory_mib = pool.memory_mib;
        let languages = pool.languages.iter();
        languages
            .map(|&language| TemplateSpec::plain(language, Shape::plain(memory_mib)))
            .collect()
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
