//! The launcher: a small program between the engine and QEMU, which sets up the isolation around itself and
//! then becomes QEMU. It links nothing of the engine.
//!
//! This library holds the messages between an owner and its launcher, and the one function of the program.
//! The modules, from the top layer to the bottom; a module uses only those below it.

#![warn(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "they panic if the stream is closed or its disk is full"
)]

mod launch;
mod owner_socket;
mod root;
mod user;
mod continuation;
mod filter;
mod launch_spec;
mod process_image;

pub use launch::launch;
pub use launch_spec::{
    Cgroup, ContinueSpec, ExecuteSpec, IsolationLayer, LaunchSpec, LauncherMessage, Limits,
    MAX_PACKET_BYTES, Namespaces, PID_LIMIT, Program, UID_BASE, User, VERSION,
};
pub use process_image::{
    Descriptor, DescriptorKind, IMAGE_VERSION, MAX_IMAGE_BYTES, MAX_IMAGE_DESCRIPTORS, Mapping,
    ProcessImage,
};
