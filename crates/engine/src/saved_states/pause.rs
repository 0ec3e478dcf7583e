//! Pausing sandboxes, and writing checkpoints to disk.

use fumehood_image::StateSummary;
use fumehood_qemu::QmpError;
use serde_json::Value;

use super::description::Description;
use super::kind::SavedStateKind;
use super::saved_state::{SavedState, state_error};
use crate::error::{Error, ErrorKind};
use crate::network::{ActiveNetwork, SavedNetwork};
use crate::provision::Provisioner;
use crate::sandbox::{Checkpoint, CheckpointOrigin, Sandbox};
use crate::snapshot::{
    RunningPrograms, StateRecord, quiesce, refresh, write_checkpoint, write_stopped,
};
use crate::vm::{Machine, SandboxEnd};

impl Sandbox {
    /// Pauses the sandbox: writes its state to the store's disk and ends the VM. [`Engine::resume`](crate::Engine::resume)
    /// continues it, also after a restart of this program or of the host. `label`, at most 256 bytes, is the caller's: it
    /// finds the state by it, among those that [`Engine::saved_states`](crate::Engine::saved_states) lists.
    ///
    /// When this returns, the state is complete on the disk. If it cannot be written, the sandbox continues. Values of
    /// secrets, keys and the policy are not part of the state. The pause continues if the future is dropped.
    ///
    /// # Errors
    /// Returns [`ErrorKind::InUse`] while a caller follows programs in the sandbox, [`ErrorKind::Host`] if the state cannot
    /// be written, such as to a full disk, and [`ErrorKind::Lost`] if the sandbox has ended.
    pub async fn pause(&self, label: &str) -> Result<SavedState, Error> {
        let (sandbox, label) = (self.clone(), label.to_owned());
        let pausing = tokio::spawn(async move { sandbox.write_and_end(label).await });
        pausing.await.map_err(|e| {
            Error::new(
                ErrorKind::Host,
                format!("the task that pauses a sandbox failed: {e}"),
            )
        })?
    }

    async fn write_and_end(&self, label: String) -> Result<SavedState, Error> {
        let inner = self.inner();
        let _guard = inner.lifetime.mark_active()?;
        let _saving = inner.saving.lock().await;
        let programs = quiesce(&inner.channel).await?;

        match self.write_paused(label, programs).await {
            Ok(summary) => {
                // The guest does not run any more from the moment its state is visible.
                let id = summary.manifest.id.to_string();
                inner.lifetime.end(SandboxEnd::Paused(id)).await;
                SavedState::new(summary)
            }
            Err(error) => {
                self.continue_after(&error).await?;
                Err(error)
            }
        }
    }

    /// Stops the guest and writes its state.
    async fn write_paused(
        &self,
        label: String,
        programs: RunningPrograms,
    ) -> Result<StateSummary, Error> {
        let inner = self.inner();
        let before = self.active_network().map(ActiveNetwork::save);
        let vm = inner.lifetime.vm().await?;
        let after = self.active_network().map(ActiveNetwork::save);
        let network = after.zip(before).map(|(after, before)| after.with(before));

        let record = record(
            &inner.provisioner,
            label,
            &inner.machine,
            SavedStateKind::Paused,
            self.origin(),
            network.as_ref(),
            programs,
        )?;
        let written = write_stopped(&vm, &inner.machine, inner.base.as_ref(), record).await?;
        written.map_err(|error| {
            state_error(error).in_context("cannot pause the sandbox, which continues")
        })
    }

    /// Continues a guest that was stopped or quiesced.
    async fn continue_after(&self, error: &Error) -> Result<(), Error> {
        let inner = self.inner();
        let lost = |e: QmpError| {
            let message = format!("{error}; the guest did not continue: {e}");
            Error::new(ErrorKind::Lost, message)
        };
        {
            let vm = inner.lifetime.vm().await?;
            let qmp = vm.qmp().map_err(lost)?;
            qmp.execute("cont", Value::Null).await.map_err(lost)?;
        }
        refresh(&inner.channel, self.same_identity()?).await
    }
}

impl Checkpoint {
    /// Writes the state to the store's disk, where it stays until it is [deleted](crate::Engine::delete_saved_state).
    /// [`Engine::load_checkpoint`](crate::Engine::load_checkpoint) reads it. `label` has at most 256 bytes.
    ///
    /// # Errors
    /// Returns [`ErrorKind::Host`] if the state cannot be written, such as to a full disk.
    pub async fn save(&self, label: &str) -> Result<SavedState, Error> {
        let snapshot = self.snapshot();
        let record = record(
            self.provisioner(),
            label.to_owned(),
            snapshot.machine(),
            SavedStateKind::Checkpoint,
            self.origin().clone(),
            self.saved_network(),
            self.running_programs().clone(),
        )?;
        let written = write_checkpoint(snapshot, record).await?;
        let summary =
            written.map_err(|error| state_error(error).in_context("cannot save the checkpoint"))?;
        SavedState::new(summary)
    }
}

fn record(
    provisioner: &Provisioner,
    label: String,
    machine: &Machine,
    kind: SavedStateKind,
    origin: CheckpointOrigin,
    network: Option<&SavedNetwork>,
    programs: RunningPrograms,
) -> Result<StateRecord, Error> {
    let description = Description::new(provisioner, machine, kind, origin, network, programs);
    let description = serde_json::to_value(description).map_err(|e| {
        Error::new(
            ErrorKind::Host,
            format!("cannot describe the sandbox's state: {e}"),
        )
    })?;
    Ok(StateRecord {
        states: provisioner.states.clone(),
        label,
        rootfs: provisioner.factory.rootfs(machine)?,
        description,
        with_process: provisioner.hot_images.are_used(),
    })
}
