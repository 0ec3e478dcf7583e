//! Programs and downloads that a build uses: apt, mmdebstrap, pip and npm, each run with a deadline.
//!
//! Building something from them belongs in [`kernel`](crate::kernel) and [`rootfs`](crate::rootfs).

pub(crate) mod apt;
pub(crate) mod bun;
pub(crate) mod download;
pub(crate) mod mmdebstrap;
pub(crate) mod program;
mod termination;
pub(crate) mod uv;

pub use self::termination::terminate_programs;
