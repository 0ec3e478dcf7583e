use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::admission::MemoryReservation;
use crate::agent::Channel;
use crate::snapshot::{Snapshot, StandbyProcess, TemplateSpec};
use crate::vm::Vm;

/// A VM that was restored and has run the primer. It is used once.
#[derive(Debug)]
pub(crate) struct HotVm {
    pub(crate) vm: Vm,
    pub(crate) channel: Channel,
    pub(crate) reservation: MemoryReservation,
    pub(crate) base: Snapshot,
}

/// How many VMs an engine has ready. Returned by [`Engine::pool_status`](crate::Engine::pool_status).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PoolStatus {
    /// Hot VMs: restored, and a primer has run.
    pub warm: usize,
    /// QEMU processes that wait for a template.
    pub standby: usize,
}

/// Hot VMs and standby processes that are ready for requests.
#[derive(Debug, Default)]
pub(crate) struct VmPool {
    ready: Mutex<Ready>,
    /// Notified when something was taken, or the pool may be filled again.
    pub(crate) changed: Notify,
}

#[derive(Debug, Default)]
struct Ready {
    hot: HashMap<TemplateSpec, VecDeque<HotVm>>,
    standby: VecDeque<(StandbyProcess, MemoryReservation)>,
}

impl VmPool {
    fn ready(&self) -> MutexGuard<'_, Ready> {
        self.ready.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a hot VM of exactly this specification whose guest is still connected.
    pub(crate) fn take_hot(&self, spec: &TemplateSpec) -> Option<HotVm> {
        let mut ready = self.ready();
        let vms = ready.hot.get_mut(spec)?;
        // A VM may have been lost since it was added.
        let taken = std::iter::from_fn(|| vms.pop_front()).find(|hot| hot.channel.is_open());
        drop(ready);

        self.changed.notify_one();
        taken
    }

    /// Takes a standby process into which this snapshot can be restored.
    pub(crate) fn take_standby(
        &self,
        snapshot: &Snapshot,
    ) -> Option<(StandbyProcess, MemoryReservation)> {
        let mut ready = self.ready();
        let index = ready
            .standby
            .iter()
            .position(|(standby, _)| standby.fits(snapshot))?;

        let taken = ready.standby.remove(index);
        drop(ready);

        self.changed.notify_one();

        taken
    }

    pub(crate) fn put_hot(&self, spec: TemplateSpec, hot: HotVm) {
        self.ready().hot.entry(spec).or_default().push_back(hot);
    }

    pub(crate) fn put_standby(&self, standby: StandbyProcess, reservation: MemoryReservation) {
        self.ready().standby.push_back((standby, reservation));
    }

    /// Ends all VMs of the pool: a request needs their memory.
    pub(crate) fn clear(&self) {
        let removed = std::mem::take(&mut *self.ready());
        drop(removed);
        self.changed.notify_one();
    }

    /// Returns the number of hot VMs of this specification.
    pub(crate) fn hot_count(&self, spec: &TemplateSpec) -> usize {
        self.ready().hot.get(spec).map_or(0, VecDeque::len)
    }

    /// Ends the hot VMs of this specification.
    pub(crate) fn remove_hot(&self, spec: &TemplateSpec) {
        let removed = self.ready().hot.remove(spec);
        drop(removed);
    }

    /// Returns how many VMs are ready.
    pub(crate) fn status(&self) -> PoolStatus {
        let ready = self.ready();
        PoolStatus {
            warm: ready.hot.values().map(VecDeque::len).sum(),
            standby: ready.standby.len(),
        }
    }

    /// Ends VMs that cannot be used any more: hot ones whose guest is lost, and standby processes into which one of
    /// `snapshots` cannot be restored.
    pub(crate) fn retain_usable(&self, snapshots: &[Snapshot]) {
        let mut ready = self.ready();
        for vms in ready.hot.values_mut() {
            vms.retain(|hot| hot.channel.is_open());
        }

        let fits =
            |standby: &StandbyProcess| snapshots.iter().all(|snapshot| standby.fits(snapshot));
        ready
            .standby
            .retain(|(standby, _)| standby.is_alive() && fits(standby));
    }
}
