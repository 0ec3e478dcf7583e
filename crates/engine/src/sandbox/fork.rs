use std::sync::Arc;

use fumehood_protocol::{PROTOCOL_VERSION, Refresh};
use tokio::task::JoinSet;

use super::checkpoint::Checkpoint;
use super::sandbox::{Sandbox, Times};
use crate::agent::{Brought, Channel};
use crate::error::{Error, ErrorKind};
use crate::network::Served;
use crate::provision::Host;
use crate::run::VmOrigin;
use crate::snapshot::{Snapshot, quiesce, refresh};

impl Sandbox {
    /// Saves its state: files, memory, contexts, programs that were left to themselves. The sandbox goes on.
    /// Others can begin from
    /// that state with [`Engine::open`](crate::Engine::open), each with randomness, clock and identity
    /// of its own. Await it to its end: a sandbox whose checkpoint was dropped half-way stands still, and
    /// can only be ended.
    ///
    /// # Errors
    /// [`ErrorKind::InUse`](crate::ErrorKind::InUse) while programs run in it that somebody follows;
    /// [`ErrorKind::Lost`](crate::ErrorKind::Lost): the sandbox must be given up.
    pub async fn checkpoint(&self) -> Result<Checkpoint, Error> {
        let inner = self.inner();
        let _busy = inner.life.busy()?;
        let place = inner
            .host
            .admission
            .place(self.memory_mib(), || inner.host.idle.clear());
        let place = place.await?;
        let _saving = inner.saving.lock().await;
        quiesce(&inner.channel).await?;
        let machine = inner.machine.clone();
        // A client may come or go at any time: what was open before the VM stood still or is open after it.
        let before = self.served().map(Served::save);
        let taken = {
            let vm = inner.life.vm().await?;
            Snapshot::take(&vm, machine, inner.base.as_ref()).await
        };
        let network = self.served().map(Served::save).zip(before);
        let network = network.map(|(after, before)| after.with(before));
        // It stays who it is; those that begin from its state are others.
        refresh(&inner.channel, self.same()?).await?;
        Ok(Checkpoint::new(taken?, network, place))
    }

    /// A refresh after which it is who it was.
    fn same(&self) -> Result<Refresh, Error> {
        let (machine_id, hostname) = self.inner().identity.clone();
        Ok(Refresh {
            machine_id,
            hostname,
            ..self.inner().host.kit.fresh(&Brought::NONE)?
        })
    }

    /// Lets programs ask for the guest's root.
    pub(crate) async fn allow_root(&self) -> Result<(), Error> {
        let mut fresh = self.same()?;
        fresh.limits.insert("allow_root".into(), 1);
        refresh(&self.inner().channel, fresh).await
    }

    /// A sandbox that begins from a saved state.
    pub(crate) async fn open(
        host: Arc<Host>,
        checkpoint: &Checkpoint,
        times: Times,
    ) -> Result<Self, Error> {
        let snapshot = checkpoint.snapshot();
        let (brought, source) = (Brought::NONE, VmOrigin::Checkpoint);
        let restored = host.restore(snapshot, &brought, PROTOCOL_VERSION, source);
        let fresh = restored.await?.map(Channel::new);
        Self::new(host, fresh, checkpoint.network(), times)
    }

    /// `count` sandboxes that begin from this one's state, as [`checkpoint`](Self::checkpoint) saves it.
    /// They share what memory they do not change.
    ///
    /// # Errors
    /// As [`checkpoint`](Self::checkpoint) and [`Engine::open`](crate::Engine::open).
    pub async fn fork(&self, count: usize) -> Result<Vec<Self>, Error> {
        let checkpoint = self.checkpoint().await?;
        let mut opening = JoinSet::new();
        for _ in 0..count {
            let (checkpoint, host) = (checkpoint.clone(), self.inner().host.clone());
            opening.spawn(async move { Self::open(host, &checkpoint, Times::default()).await });
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
