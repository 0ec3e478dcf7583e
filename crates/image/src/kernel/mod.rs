//! The guest's kernel: built from Debian's source with our configuration, or Debian's own cloud kernel.
//!
//! A kernel is cached in the store by everything it is made from. This folder ends with the kernel's files
//! and their record; the image around them is assembled in [`build`](crate::build).

mod cached;
mod debian;
mod fragment;
mod plan;
mod source;
mod source_build;

pub(crate) use self::cached::Kernel;
pub(crate) use self::plan::KernelPlan;
