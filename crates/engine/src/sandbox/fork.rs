//! Saved states of sandboxes: taking checkpoints, and starting other sandboxes from them.

use std::sync::Arc;

use fumehood_protocol::Refresh;
use tokio::task::JoinSet;

use super::checkpoint::{Checkpoint, CheckpointOrigin};
use super::sandbox::{Sandbox, SandboxTimeouts};
use crate::agent::GuestInit;
use crate::error::{Error, ErrorKind};
use crate::network::ActiveNetwork;
use crate::provision::Provisioner;
use crate::snapshot::{Snapshot, WithProcess, quiesce, refresh};

impl Sandbox {
    /// Saves the state of the sandbox: files, memory, contexts, detached programs. The sandbox continues.
    ///
    /// [`Engine::open`](crate::Engine::open) starts other sandboxes from the state, each with its own randomness,
    /// clock and identity. Await the future to its end: if it is dropped halfway, the sandbox stays frozen and can
    /// only be ended.
    ///
    /// # Errors
    /// Returns [`ErrorKind::InUse`] while a caller follows programs in the sandbox, and [`ErrorKind::Lost`] if the
    /// sandbox cannot be used any more.
    pub async fn checkpoint(&self) -> Result<Checkpoint, Error> {
        let inner = self.inner();
        let provisioner = &inner.provisioner;
        let _guard = inner.lifetime.mark_active()?;
        let reserved = provisioner
            .admission
            .reserve(self.memory_mib(), || provisioner.pool.clear());

        let reservation = reserved.await?;

        let _saving = inner.saving.lock().await;
        let programs = quiesce(&inner.channel).await?;
        // A client may connect or disconnect at any time: connections that were open before or after the VM was stopped count.
        let before = self.active_network().map(ActiveNetwork::save);
        let snapshot = {
            let vm = inner.lifetime.vm().await?;
            Snapshot::take(
                &vm,
                inner.machine.clone(),
                inner.base.as_ref(),
                WithProcess::Yes,
            )
            .await
        };

        let after = self.active_network().map(ActiveNetwork::save);
        let network = after.zip(before).map(|(after, before)| after.with(before));

        // This sandbox keeps its identity; those that start from its state get others.
        refresh(&inner.channel, self.same_identity()?).await?;

        Ok(Checkpoint::new(
            snapshot?,
            network,
            programs,
            self.origin(),
            GuestInit::NONE,
            provisioner.clone(),
            reservation,
        ))
    }

    pub(crate) fn origin(&self) -> CheckpointOrigin {
        CheckpointOrigin {
            identity: self.inner().identity.clone(),
            packages: self.packages().to_vec(),
        }
    }

    /// Returns a refresh that keeps the identity of the guest.
    pub(crate) fn same_identity(&self) -> Result<Refresh, Error> {
        let (machine_id, hostname) = self.inner().identity.clone();
        Ok(Refresh {
            machine_id,
            hostname,
            ..self
                .inner()
                .provisioner
                .factory
                .new_refresh(&GuestInit::NONE)?
        })
    }

    /// Allows programs to run as the guest's root.
    pub(crate) async fn allow_root(&self) -> Result<(), Error> {
        self.set_allow_root(true).await
    }

    /// Sets whether programs may run as the guest's root.
    pub(super) async fn set_allow_root(&self, is_allowed: bool) -> Result<(), Error> {
        let mut request = self.same_identity()?;
        request
            .limits
            .insert("allow_root".into(), u64::from(is_allowed));
        refresh(&self.inner().channel, request).await
    }

    /// Starts a sandbox from a saved state.
    pub(crate) async fn open(
        provisioner: Arc<Provisioner>,
        checkpoint: &Checkpoint,
        timeouts: SandboxTimeouts,
    ) -> Result<Self, Error> {
        let acquired = provisioner
            .open_checkpoint(checkpoint.snapshot(), checkpoint.init())
            .await?;
        let sandbox = Self::new(provisioner, acquired, checkpoint.network(), timeouts)?;
        sandbox.record_inherited_programs(checkpoint.running_programs().clone());
        sandbox.record_packages(checkpoint.origin().packages.clone());

        Ok(sandbox)
    }

    /// Starts `count` sandboxes from the state of this one, as [`checkpoint`](Self::checkpoint) saves it. They share
    /// the memory that they do not change.
    ///
    /// # Errors
    /// As [`checkpoint`](Self::checkpoint) and [`Engine::open`](crate::Engine::open).
    pub async fn fork(&self, count: usize) -> Result<Vec<Self>, Error> {
        let checkpoint = self.checkpoint().await?;
        // Restore the children at the same time.
        let mut opening = JoinSet::new();

        for _ in 0..count {
            let checkpoint = checkpoint.clone();
            let provisioner = self.inner().provisioner.clone();
            opening.spawn(async move {
                Self::open(provisioner, &checkpoint, SandboxTimeouts::default()).await
            });
        }

        let mut children = Vec::with_capacity(count);
        while let Some(opened) = opening.join_next().await {
            let child = opened.map_err(|e| {
                Error::new(ErrorKind::Lost, format!("the task of a fork failed: {e}"))
            })?;
            children.push(child?);
        }

        Ok(children)
    }
}
