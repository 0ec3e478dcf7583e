//! Programs and downloads that a build uses: apt, mmdebstrap, pip and npm, run with a deadline.
//!
//! What is built from them belongs into [`kernel`](crate::kernel) and [`rootfs`](crate::rootfs).

pub(crate) mod apt;
pub(crate) mod bun;
pub(crate) mod download;
pub(crate) mod mmdebstrap;
pub(crate) mod program;
pub(crate) mod uv;
