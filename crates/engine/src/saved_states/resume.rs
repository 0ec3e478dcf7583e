//! Listing saved states, resuming and deleting them.

use std::time::Duration;

use fumehood_gateway::Connections;
use fumehood_image::{OpenedState, SavedStates, StateId};

use super::description::Description;
use super::saved_state::{SavedState, SavedStateKind, description, state_error};
use crate::agent::GuestInit;
use crate::engine::Engine;
use crate::error::{Error, ErrorKind};
use crate::network::{Network, PreparedNetwork, SavedNetwork};
use crate::sandbox::{Checkpoint, CheckpointOrigin, Sandbox, SandboxTimeouts};
use crate::snapshot::{Snapshot, TemplateMemory};

/// What a resumed sandbox gets from its owner. Nothing of it is taken from the saved state.
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

/// A state that was read from disk.
struct LoadedState {
    snapshot: Snapshot,
    description: Description,
    network: Option<PreparedNetwork>,
    /// MiB of the host's memory that its files take while a VM uses them.
    memory_mib: u32,
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
    /// used, only after the state was durably removed. After an error the state stays.
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
        let loaded = self.load_state(opened, options.network.as_ref())?;

        let provisioner = self.provisioner();
        let reserved = provisioner
            .admission
            .reserve(loaded.memory_mib, || provisioner.pool.clear());
        let reservation = reserved.await?;

        // Continue the guest. It has no network, and nobody can use it.
        let is_paused = loaded.description.kind == SavedStateKind::Paused;
        let keeps_identity = options.keep_identity.unwrap_or(is_paused);
        let init = GuestInit {
            identity: keeps_identity.then(|| loaded.description.identity.clone()),
            ..loaded.init()
        };
        let acquired = provisioner.open_checkpoint(&loaded.snapshot, &init).await?;

        // From here on, nobody else can resume it.
        self.with_states(move |_| claim.consume()).await?;
        let timeouts = SandboxTimeouts {
            idle_timeout: options.idle_timeout,
            max_lifetime: options.max_lifetime,
        };
        let sandbox = Sandbox::new(provisioner.clone(), acquired, loaded.network, timeouts)?;
        sandbox.record_inherited_programs(loaded.description.programs);
        sandbox.record_packages(loaded.description.packages);
        sandbox.hold_reservation(reservation);
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
        let id = id.clone();
        let opened = self.with_states(move |states| states.open(&id)).await?;
        let loaded = self.load_state(opened, network.as_ref())?;

        let provisioner = self.provisioner();
        let reserved = provisioner
            .admission
            .reserve(loaded.description.memory_mib(), || provisioner.pool.clear());
        let reservation = reserved.await?;
        loaded.snapshot.ready().await?;

        let init = loaded.init();
        Ok(Checkpoint::new(
            loaded.snapshot,
            loaded.network.map(SavedNetwork::of_prepared),
            loaded.description.programs,
            CheckpointOrigin {
                identity: loaded.description.identity,
                packages: loaded.description.packages,
            },
            init,
            provisioner.clone(),
            reservation,
        ))
    }

    /// Checks that this host can restore a state, and starts reading its memory.
    fn load_state(
        &self,
        opened: OpenedState,
        network: Option<&Network>,
    ) -> Result<LoadedState, Error> {
        let manifest = opened.manifest();
        let description = description(&manifest.id, manifest.description.clone())?;
        let machine = description.machine(self.provisioner(), &opened)?;
        if network.is_some() && !description.has_network() {
            let message = format!(
                "saved state {} has no network card, so it cannot get a network; resume it without one",
                manifest.id
            );
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        let stale = Connections::from_endpoints(description.connections.iter().copied());
        let network =
            network.map(|network| network.prepare_resumed(&description.placeholders, stale));
        let network = network.transpose()?;

        let template = opened.pages().template().zip(manifest.template.as_ref());
        let template = template.map(|(file, pinned)| {
            let file = file.try_clone()?;
            Ok(TemplateMemory::new(file, pinned.sha256.clone()))
        });
        let template = template.transpose().map_err(|e: std::io::Error| {
            Error::new(
                ErrorKind::Host,
                format!("cannot duplicate a descriptor: {e}"),
            )
        })?;

        let (devices, changed) = (opened.devices().to_vec(), opened.pages().changed());
        let memory_mib = description.memory_mib();
        let pages = opened.into_pages();
        let fill = move |ram: &std::fs::File| pages.fill(ram).map_err(|e| e.to_string());
        let snapshot = Snapshot::load(machine, devices, template, changed, fill)?;
        Ok(LoadedState {
            snapshot,
            description,
            network,
            memory_mib,
        })
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

impl LoadedState {
    /// Returns what the guest gets besides its identity.
    fn init(&self) -> GuestInit {
        let network = self.network.as_ref();
        network.map_or(GuestInit::NONE, PreparedNetwork::init)
    }
}
