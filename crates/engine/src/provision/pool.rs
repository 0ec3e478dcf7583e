use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::admission::MemoryReservation;
use crate::agent::Channel;
use crate::snapshot::{Snapshot, TemplateSpec};
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
    /// Hot VMs: restored, and a primer has run. Without KVM there are none: hot images replace them.
    pub warm: usize,
}

/// Hot VMs that are ready for requests.
#[derive(Debug, Default)]
pub(crate) struct VmPool {
    hot: Mutex<HashMap<TemplateSpec, VecDeque<HotVm>>>,
    /// Notified when something was taken, or the replenisher has something else to do.
    pub(crate) changed: Notify,
}

impl VmPool {
    fn hot(&self) -> MutexGuard<'_, HashMap<TemplateSpec, VecDeque<HotVm>>> {
        self.hot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a hot VM of exactly this specification whose guest is still connected.
    pub(crate) fn take(&self, spec: &TemplateSpec) -> Option<HotVm> {
        let mut hot = self.hot();
        let vms = hot.get_mut(spec)?;
        // A VM may have been lost since it was added.
        let taken = std::iter::from_fn(|| vms.pop_front()).find(|hot| hot.channel.is_open());
        drop(hot);

        self.changed.notify_one();
        taken
    }

    pub(crate) fn put(&self, spec: TemplateSpec, vm: HotVm) {
        self.hot().entry(spec).or_default().push_back(vm);
    }

    /// Ends all VMs of the pool: a request needs their memory.
    pub(crate) fn clear(&self) {
        let removed = std::mem::take(&mut *self.hot());
        drop(removed);
        self.changed.notify_one();
    }

    /// Returns the number of hot VMs of this specification. Those whose guest is lost are ended.
    pub(crate) fn count(&self, spec: &TemplateSpec) -> usize {
        let mut hot = self.hot();
        let Some(vms) = hot.get_mut(spec) else {
            return 0;
        };
        vms.retain(|vm| vm.channel.is_open());
        vms.len()
    }

    /// Returns how many VMs are ready.
    pub(crate) fn status(&self) -> PoolStatus {
        PoolStatus {
            warm: self.hot().values().map(VecDeque::len).sum(),
        }
    }
}
