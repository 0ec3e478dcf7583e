//! Puts up the walls around QEMU and becomes it: a small program between the engine and QEMU, which links
//! none of the engine. This library is what both say to each other, and the program's one function.

mod because;
mod filter;
mod launch;
mod line;
mod order;
mod root;
mod user;

pub use launch::launch;
pub use order::{
    Cgroup, IsolationLayer, LaunchSpec, LauncherMessage, Limits, Namespaces, PACKET_BYTES,
    PROCESSES, UID_BASE, User, VERSION,
};
