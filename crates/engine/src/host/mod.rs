//! What this host supports: the accelerator that executes guests, and the isolation layers around QEMU.
//!
//! Nothing here starts a VM; the launcher that applies the isolation belongs to `vm`.

mod accelerator;
mod descriptor_limit;
mod kvm_verdict;
mod isolation;

pub use accelerator::{Accelerator, AcceleratorChoice};
pub(crate) use accelerator::{SelectedAccelerator, select_accelerator};
pub(crate) use descriptor_limit::allows_hot_images;
pub use descriptor_limit::check_descriptor_limit;
pub use isolation::{Isolation, IsolationLayer, RequiredIsolation};
