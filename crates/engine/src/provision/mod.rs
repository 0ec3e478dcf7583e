//! Where VMs come from: admission, hot VMs, hot images, templates, boots.
//!
//! What runs in a VM does not matter here.

mod admission;
mod builds;
mod counters;
mod pool;
mod provisioner;
mod replenisher;

pub use admission::Capacity;
pub(crate) use admission::{MemoryReservation, available_mib};
pub use counters::VmStats;
pub use pool::PoolStatus;
pub(crate) use provisioner::{ANY_LANGUAGE, AcquiredVm, Provisioner};
pub(crate) use replenisher::replenish;
