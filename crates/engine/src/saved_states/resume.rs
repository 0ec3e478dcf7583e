//! Listing saved states, resuming and deleting them.

use std::time::Duration;

use fumehood_image::{OpenedState, SavedStates, StateId};
use tokio::task::JoinHandle;

use super::description::Description;
use super::kind::SavedStateKind;
use super::saved_state::{SavedState, description, state_error};
use crate::agent::{Channel, GuestInit};
use crate::engine::Engine;
use crate::error::{Error, ErrorKind};
use crate::network::{Network, PreparedNetwork, SavedNetwork};
use crate::provision::{AcquiredVm, MemoryReservation};
use crate::sandbox::{Checkpoint, CheckpointOrigin, Sandbox, SandboxTimeouts};
use crate::snapshot::{Snapshot, TemplateMemory, load_process};

/// The settings that a resumed sandbox gets from its owner. None of them is taken from the saved state.
#[derive(Debug, Clone, Default)]
pub struct ResumeOptions {
    /// The network, with the values of secrets. Without one, the guest's card is not connected. A secret of the guest that
    /// has no value here stays a placeholder, and requests with it are denied with an explanation.
    pub network: Option<Network>,
    /// The time without requests and followed programs after which the sandbox ends; none = never.
    pub idle_timeout: Option<Duration>,
    /// The age at which the sandbox ends, counted from now; none = never.
    pub max_lifetime: Option<Duration>,
    /// Whether it keeps the machine id and the host name; none = if it was paused.
    pub keep_identity: Option<bool>,
}

/// A state that is being read from disk.
struct LoadedState {
    snapshot: Snapshot,
    /// MiB of the host's memory that the snapshot takes.
    memory_mib: u32,
    /// The check of files that QEMU maps directly.
    checks: Option<JoinHandle<Checks>>,
}

/// The results of comparing files with their checksums.
#[derive(Debug)]
struct Checks {
    process: Result<(), fumehood_image::Error>,
    memory: Result<(), fumehood_image::Error>,
}

/// Whether the QEMU that was saved with a state is continued.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum UseProcess {
    IfPossible,
    No,
}

/// A guest that was continued.
struct Continued {
    acquired: AcquiredVm<Channel>,
    /// The memory of the snapshot.
    reservation: Option<MemoryReservation>,
}

impl Engine {
    /// Returns all saved states of the store, sorted by id. Damaged ones are named in the log, and skipped.
    ///
    /// # Errors
    /// Returns [`ErrorKind::Host`] if the store cannot be read.
    pub async fn saved_states(&self) -> Result<Vec<SavedState>, Error> {
        let listed = self.with_states(|states| states.list()).await?;
        let states = listed.into_iter().map(|state| {
            let summary = state.map_err(state_error)?;
            SavedState::new(summary)
        });
        let readable = states.filter_map(|state| {
            state
                .inspect_err(|error| tracing::warn!(%error, "skipping a saved state"))
                .ok()
        });
        Ok(readable.collect())
    }

    /// Deletes a saved state. Returns `false` if it does not exist.
    ///
    /// # Errors
    /// Returns [`ErrorKind::InUse`] while it is being resumed, and [`ErrorKind::Host`].
    pub async fn delete_saved_state(&self, id: &StateId) -> Result<bool, Error> {
        let id = id.clone();
        self.with_states(move |states| states.delete(&id)).await
    }

    /// Continues a saved sandbox and removes its state, so that it is resumed once: the sandbox gets its network, and can be
    /// used, only after the state was durably removed. After an error the state stays. Await the future to its end: if it is
    /// dropped after the state was removed, the sandbox ends and is lost.
    ///
    /// # Errors
    /// Returns [`ErrorKind::Missing`] if there is no such state (any more), [`ErrorKind::InUse`] if it is being resumed,
    /// [`ErrorKind::Damaged`] with the file that is damaged, [`ErrorKind::Host`] with the reason why this host cannot resume
    /// it, [`ErrorKind::Invalid`] for a network that the guest has no card for, [`ErrorKind::Busy`] and [`ErrorKind::Boot`].
    pub async fn resume(&self, id: &StateId, options: ResumeOptions) -> Result<Sandbox, Error> {
        let wanted = id.clone();
        let opening = self.with_states(move |states| {
            let claim = states.claim(&wanted)?;
            let opened = claim.open()?;
            Ok((claim, opened))
        });
        let (claim, opened) = opening.await?;
        let description = description(id, opened.manifest().description.clone())?;
        let network = description.prepare(id, options.network.as_ref())?;

        // Continue the guest. It has no network, and no caller can use it.
        let is_paused = description.kind == SavedStateKind::Paused;
        let keeps_identity = options.keep_identity.unwrap_or(is_paused);
        let init = GuestInit {
            identity: keeps_identity.then(|| description.identity.clone()),
            ..init_of(network.as_ref())
        };
        let loaded = self.load_state(&description, opened, UseProcess::IfPossible)?;
        let continued = match self.continue_state(loaded, &init).await? {
            Some(continued) => Some(continued),
            None => {
                let id = id.clone();
                let opened = self.with_states(move |states| states.open(&id)).await?;
                let loaded = self.load_state(&description, opened, UseProcess::No)?;
                self.continue_state(loaded, &init).await?
            }
        };
        let Continued {
            acquired,
            reservation,
        } = continued.ok_or_else(|| Error::new(ErrorKind::Boot, "the guest did not continue"))?;

        // From here on, it cannot be resumed again.
        self.with_states(move |_| claim.consume()).await?;
        let timeouts = SandboxTimeouts {
            idle_timeout: options.idle_timeout,
            max_lifetime: options.max_lifetime,
        };
        let sandbox = Sandbox::new(self.provisioner().clone(), acquired, network, timeouts)?;
        sandbox.record_inherited_programs(description.programs);
        sandbox.record_packages(description.packages);
        if let Some(reservation) = reservation {
            sandbox.hold_reservation(reservation);
        }
        Ok(sandbox)
    }

    /// Reads a saved state as a checkpoint, from which any number of sandboxes can be [opened](Self::open). The state stays
    /// in the store. The sandboxes get this network, if the guest has a card.
    ///
    /// # Errors
    /// As [`resume`](Self::resume).
    pub async fn load_checkpoint(
        &self,
        id: &StateId,
        network: Option<Network>,
    ) -> Result<Checkpoint, Error> {
        let wanted = id.clone();
        let opened = self.with_states(move |states| states.open(&wanted)).await?;
        let description = description(id, opened.manifest().description.clone())?;
        let network = description.prepare(id, network.as_ref())?;

        let provisioner = self.provisioner();
        let reserved = provisioner
            .admission
            .reserve(description.memory_mib(), || provisioner.pool.clear());
        let reservation = reserved.await?;
        let loaded = self.load_state(&description, opened, UseProcess::No)?;
        loaded.snapshot.ready().await?;

        let init = init_of(network.as_ref());
        Ok(Checkpoint::new(
            loaded.snapshot,
            network.map(SavedNetwork::of_prepared),
            description.programs,
            CheckpointOrigin {
                identity: description.identity,
                packages: description.packages,
            },
            init,
            provisioner.clone(),
            reservation,
        ))
    }

    /// Checks that this host can restore a state, and starts reading its memory.
    fn load_state(
        &self,
        description: &Description,
        opened: OpenedState,
        use_process: UseProcess,
    ) -> Result<LoadedState, Error> {
        let provisioner = self.provisioner();
        let machine = description.machine(provisioner, &opened)?;
        let template = template_memory(&opened).map_err(|e| {
            Error::new(
                ErrorKind::Host,
                format!("cannot duplicate a descriptor: {e}"),
            )
        })?;
        let devices = opened.devices().to_vec();
        let (pages, process) = opened.into_parts();

        // The QEMU that was saved with it, with the code that it has translated.
        let is_wanted = use_process == UseProcess::IfPossible && provisioner.hot_images.are_used();
        if let Some(stored) = process.filter(|_| is_wanted) {
            let libraries = provisioner.hot_images.libraries();
            match load_process(&stored, pages.memory(), template.as_ref(), libraries) {
                Ok(process) => {
                    let checks = tokio::task::spawn_blocking(move || Checks {
                        process: stored.verify(),
                        memory: pages.verify(),
                    });
                    return Ok(LoadedState {
                        snapshot: Snapshot::with_process(machine, devices, process, template),
                        // Its pages are those of files.
                        memory_mib: 0,
                        checks: Some(checks),
                    });
                }
                Err(reason) => tracing::info!(reason, "a state is resumed without its QEMU"),
            }
        }

        let (changed, bytes) = (pages.changed(), pages.bytes());
        let fill = move |ram: &std::fs::File| pages.fill(ram).map_err(|e| e.to_string());
        let snapshot = Snapshot::load(machine, devices, template, changed, fill)?;
        Ok(LoadedState {
            snapshot,
            memory_mib: u32::try_from(bytes.div_ceil(1 << 20)).unwrap_or(u32::MAX),
            checks: None,
        })
    }

    /// Continues the guest of a state, and waits until all files are checked. Returns `None` if only the QEMU that was saved
    /// with it is damaged: the state does not need it.
    async fn continue_state(
        &self,
        loaded: LoadedState,
        init: &GuestInit,
    ) -> Result<Option<Continued>, Error> {
        let provisioner = self.provisioner();
        let memory_mib = loaded
            .memory_mib
            .min(loaded.snapshot.machine().shape.memory_mib);
        let reservation = if memory_mib > 0 {
            let admission = &provisioner.admission;
            let reserved = admission.reserve(memory_mib, || provisioner.pool.clear());
            Some(reserved.await?)
        } else {
            None
        };
        let continued = provisioner.open_checkpoint(&loaded.snapshot, init).await;
        let continued = continued.map(|acquired| {
            Some(Continued {
                acquired,
                reservation,
            })
        });
        let Some(checks) = loaded.checks else {
            return continued;
        };

        let checks = checks.await.map_err(|e| {
            let message = format!("the task that checks a saved state failed: {e}");
            Error::new(ErrorKind::Host, message)
        })?;
        // An error of a VM may be a consequence of damage.
        checks.memory.map_err(state_error)?;
        if let Err(error) = checks.process {
            tracing::warn!(%error, "a state is resumed without its QEMU");
            return Ok(None);
        }
        continued
    }

    /// Runs work with the saved states on a thread for it.
    async fn with_states<T: Send + 'static>(
        &self,
        work: impl FnOnce(&SavedStates) -> Result<T, fumehood_image::Error> + Send + 'static,
    ) -> Result<T, Error> {
        let states = self.provisioner().states.clone();
        let done = tokio::task::spawn_blocking(move || work(&states)).await;
        let done = done.map_err(|e| {
            let message = format!("the task that reads saved states failed: {e}");
            Error::new(ErrorKind::Host, message)
        })?;
        done.map_err(state_error)
    }
}

/// Returns the settings of a guest with this network besides its identity.
fn init_of(network: Option<&PreparedNetwork>) -> GuestInit {
    network.map_or(GuestInit::NONE, PreparedNetwork::init)
}

/// Returns the template of a state.
fn template_memory(opened: &OpenedState) -> std::io::Result<Option<TemplateMemory>> {
    let template = opened.pages().template();
    let template = template.zip(opened.manifest().template.as_ref());
    let memory = template.map(|(file, pinned)| {
        let file = file.try_clone()?;
        Ok(TemplateMemory::new(file, pinned.sha256.clone()))
    });
    memory.transpose()
}
