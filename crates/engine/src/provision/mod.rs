//! Where VMs come from: admission, the pool of hot VMs and standby processes, templates, boots.
//!
//! What runs in a VM does not matter here.

mod admission;
mod counters;
mod pool;
mod provisioner;
mod replenisher;

pub use admission::Capacity;
pub(crate) use admission::{Place, available_mib};
pub use counters::VmStats;
pub(crate) use provisioner::{ANY_LANGUAGE, Fresh, Host};
pub(crate) use replenisher::keep;
