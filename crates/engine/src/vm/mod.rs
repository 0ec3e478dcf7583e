//! One QEMU process and its guest: machine, boot, console, isolation, lifetime.
//!
//! Saved states (`snapshot`) and where a VM comes from (`provision`) do not belong here.

mod boot;
mod console;
mod instance;
mod launcher;
#[cfg_attr(
    not(feature = "testing"),
    allow(unreachable_pub, reason = "exported for tests only")
)]
mod layer_disk;
mod lifetime;
mod machine;

pub(crate) use boot::{StartedVm, VmFactory, handshake_after_boot, handshake_after_restore};
pub(crate) use instance::{PassedIdentities, Vm};
pub(crate) use launcher::launch_config;
pub use launcher::{LAUNCHER_BIN, install_launcher};
#[cfg_attr(
    not(feature = "testing"),
    allow(unreachable_pub, reason = "exported for tests only")
)]
pub use layer_disk::Layer;
pub use lifetime::{Activity, SandboxEnd};
pub(crate) use lifetime::{ActivityGuard, SandboxLifetime};
pub(crate) use machine::{Machine, Shape};
