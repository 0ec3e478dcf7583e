use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use fumehood_image::Layers;
use fumehood_protocol::{Language, PROTOCOL_VERSION};
use tokio::net::UnixStream;

use super::admission::{Admission, Place};
use super::counters::Counters;
use super::pool::Idle;
use crate::agent::{Brought, Channel};
use crate::config::{Config, TemplateUse};
use crate::error::{Error, ErrorKind};
use crate::host::Accelerator;
use crate::run::VmOrigin;
use crate::snapshot::{Blank, Built, Snapshot, Templates, Which};
use crate::vm::{Kit, Machine, Shape, Started, Vm};

/// This host: everything that VMs are had from.
#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) config: Config,
    pub(crate) kit: Kit,
    pub(crate) accelerator: Accelerator,
    pub(crate) admission: Admission,
    pub(crate) templates: Templates,
    pub(crate) layers: Layers,
    pub(crate) idle: Idle,
    pub(crate) counters: Counters,
    /// Templates that were asked for and were not there.
    wanted: Mutex<HashSet<Which>>,
}

/// A VM of its own for somebody, refreshed and greeted.
#[derive(Debug)]
pub(crate) struct Fresh<Line> {
    pub(crate) vm: Vm,
    pub(crate) line: Line,
    pub(crate) machine: Machine,
    /// The cable of its network card, if it has one: see [`Network`](crate::network::Network).
    pub(crate) network: Option<UnixStream>,
    pub(crate) place: Place,
    pub(crate) source: VmOrigin,
    /// What its state began from.
    pub(crate) base: Option<Snapshot>,
    /// How long it waited for room.
    pub(crate) queue: Duration,
}

impl Host {
    pub(crate) fn new(
        config: Config,
        kit: Kit,
        accelerator: Accelerator,
        templates: Templates,
        layers: Layers,
    ) -> Self {
        let admission = Admission::new(&config);
        Self {
            config,
            kit,
            accelerator,
            admission,
            templates,
            layers,
            idle: Idle::default(),
            counters: Counters::default(),
            wanted: Mutex::default(),
        }
    }

    /// The fastest way to a VM of this kind: one that is hot, a QEMU that waits, a template, a boot.
    ///
    /// # Errors
    /// [`ErrorKind::Busy`], [`ErrorKind::Host`], [`ErrorKind::Boot`].
    pub(crate) async fn acquire(
        &self,
        which: &Which,
        brought: &Brought,
    ) -> Result<Fresh<Channel>, Error> {
        let start = Instant::now();
        // A hot one has had its refresh.
        if *brought == Brought::NONE
            && let Some(mut hot) = self.idle.take_hot(which)
        {
            hot.vm.start = start.elapsed();
            self.count(VmOrigin::Hot);
            return Ok(Fresh {
                vm: hot.vm,
                line: hot.channel,
                machine: hot.base.machine().clone(),
                // The pool keeps none with a card.
                network: None,
                place: hot.place,
                source: VmOrigin::Hot,
                base: Some(hot.base),
                queue: Duration::ZERO,
            });
        }
        let fresh = self.acquire_line(which, brought, PROTOCOL_VERSION).await?;
        Ok(fresh.map(Channel::new))
    }

    /// The same, but for a hot one, with its agent greeted in this version of the protocol.
    ///
    /// # Errors
    /// As [`acquire`](Self::acquire).
    pub(crate) async fn acquire_line(
        &self,
        which: &Which,
        brought: &Brought,
        protocol: u32,
    ) -> Result<Fresh<UnixStream>, Error> {
        let Some(base) = self.template(which) else {
            return self.boot(&which.shape, brought, protocol).await;
        };
        if let Some((blank, place)) = self.idle.take_blank(&base) {
            let deadline = self.config.restore_deadline;
            let restored = blank.restore(&base, &self.kit, brought, protocol, deadline);
            match restored.await {
                Ok(restored) => {
                    let machine = base.machine().clone();
                    return Ok(self.fresh(restored, machine, place, VmOrigin::Blank, Some(base)));
                }
                Err(error) => self.count_failure(&error),
            }
        }
        match self
            .restore(&base, brought, protocol, VmOrigin::Template)
            .await
        {
            Ok(fresh) => Ok(fresh),
            Err(error) if error.kind() == ErrorKind::Busy => Err(error),
            Err(error) => {
                if error.kind() == ErrorKind::Damaged {
                    self.counters.count_discarded_template();
                    self.templates.discard(&self.kit, which);
                    self.want(which);
                }
                self.boot(&which.shape, brought, protocol).await
            }
        }
    }

    /// A VM that goes on from this state, at the second try at the latest.
    ///
    /// # Errors
    /// As [`acquire`](Self::acquire), and [`ErrorKind::Damaged`].
    pub(crate) async fn restore(
        &self,
        base: &Snapshot,
        brought: &Brought,
        protocol: u32,
        source: VmOrigin,
    ) -> Result<Fresh<UnixStream>, Error> {
        let start = Instant::now();
        let machine = base.machine();
        let room = self
            .admission
            .place_and_turn(machine.shape.memory_mib, || self.idle.clear());
        let (place, _turn) = room.await?;
        let queue = start.elapsed();
        let once = || async {
            let started = Instant::now();
            let blank =
                Blank::start(&self.kit, machine.clone(), std::slice::from_ref(base)).await?;
            let deadline = self.config.restore_deadline;
            let restored = blank.restore(base, &self.kit, brought, protocol, deadline);
            let mut restored = restored.await?;
            restored.vm.start = started.elapsed();
            Ok::<_, Error>(restored)
        };
        let restored = match once().await {
            Err(error) if error.kind() == ErrorKind::Boot => {
                self.count_failure(&error);
                once().await
            }
            other => other,
        };
        let restored = restored.inspect_err(|error| self.count_failure(error))?;
        Ok(Fresh {
            queue,
            ..self.fresh(restored, machine.clone(), place, source, Some(base.clone()))
        })
    }

    async fn boot(
        &self,
        shape: &Shape,
        brought: &Brought,
        protocol: u32,
    ) -> Result<Fresh<UnixStream>, Error> {
        let start = Instant::now();
        let room = self
            .admission
            .place_and_turn(shape.memory_mib, || self.idle.clear());
        let (place, _turn) = room.await?;
        let queue = start.elapsed();
        let deadline = self.config.boot_deadline;
        let machine = self.kit.machine(shape.clone());
        let booted = self.kit.boot(&machine, brought, protocol, deadline).await?;
        Ok(Fresh {
            queue,
            ..self.fresh(booted, machine, place, VmOrigin::Boot, None)
        })
    }

    fn fresh(
        &self,
        started: Started,
        machine: Machine,
        place: Place,
        source: VmOrigin,
        base: Option<Snapshot>,
    ) -> Fresh<UnixStream> {
        self.count(source);
        Fresh {
            vm: started.vm,
            line: started.agent,
            machine,
            network: started.network,
            place,
            source,
            base,
            queue: Duration::ZERO,
        }
    }

    /// The template to restore from, if it is there; else it is noted that it was wanted.
    fn template(&self, which: &Which) -> Option<Snapshot> {
        if self.config.templates == TemplateUse::Never {
            return None;
        }
        let found = self.templates.find(&self.kit, which);
        if found.is_none() {
            self.want(which);
        }
        found
    }

    /// Whether a template is on disk.
    pub(crate) fn has_template(&self, which: &Which) -> bool {
        self.templates.has(&self.kit, which)
    }

    /// Builds a template unless it is there: `false`.
    ///
    /// # Errors
    /// As a boot; [`ErrorKind::Host`] when it cannot be saved, [`ErrorKind::Busy`].
    pub(crate) async fn build_template(&self, which: &Which) -> Result<bool, Error> {
        const LOOK: Duration = Duration::from_millis(200);
        let begun = Instant::now();
        loop {
            if self.has_template(which) {
                return Ok(false);
            }
            let deadline = self.config.boot_deadline;
            match self.templates.build(&self.kit, which, deadline).await? {
                Built::Saved => return Ok(true),
                Built::Unsaved(why) => {
                    let message = format!("the template cannot be saved: {why}");
                    return Err(Error::new(ErrorKind::Host, message));
                }
                Built::Elsewhere => {}
            }
            if begun.elapsed() > self.config.queue_deadline {
                let message = "another process builds this template and does not come to an end";
                return Err(Error::new(ErrorKind::Busy, message));
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    fn want(&self, which: &Which) {
        if self.config.templates == TemplateUse::UseAndBuild {
            self.wanted().insert(which.clone());
            self.idle.changed.notify_one();
        }
    }

    /// A template that was wanted and was not there.
    pub(crate) fn next_wanted(&self) -> Option<Which> {
        let mut wanted = self.wanted();
        let next = wanted.iter().next()?.clone();
        wanted.remove(&next);
        Some(next)
    }

    fn wanted(&self) -> std::sync::MutexGuard<'_, HashSet<Which>> {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count(&self, source: VmOrigin) {
        self.counters.count(source);
    }

    fn count_failure(&self, error: &Error) {
        self.counters.count_failed_restore();
        tracing::warn!(%error, "a VM was not restored");
    }

    /// The kinds of VMs that the pool keeps.
    pub(crate) fn kept(&self) -> Vec<Which> {
        let pool = &self.config.pool;
        let memory_mib = pool.memory_mib;
        let kinds = pool.languages.iter();
        kinds
            .map(|&language| Which {
                language,
                shape: Shape::plain(memory_mib),
            })
            .collect()
    }
}

impl<A> Fresh<A> {
    pub(crate) fn map<B>(self, change: impl FnOnce(A) -> B) -> Fresh<B> {
        Fresh {
            vm: self.vm,
            line: change(self.line),
            machine: self.machine,
            network: self.network,
            place: self.place,
            source: self.source,
            base: self.base,
            queue: self.queue,
        }
    }
}

/// The language whose template serves a VM that nobody named a language for: the smallest.
pub(crate) const ANY_LANGUAGE: Language = Language::Shell;
