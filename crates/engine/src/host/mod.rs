//! What this host offers: the accelerator that runs guest code, and the isolation layers around QEMU.
//!
//! Nothing here starts a VM.

mod accelerator;
mod isolation;

pub use accelerator::{Accelerator, AcceleratorChoice};
pub(crate) use accelerator::{SelectedAccelerator, select_accelerator};
pub use isolation::{Isolation, IsolationLayer, RequiredIsolation};
