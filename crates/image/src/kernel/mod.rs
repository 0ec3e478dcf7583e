//! The guest's kernel: built from Debian's source with our configuration, or Debian's own cloud kernel.
//!
//! A kernel is cached in the store under a key over all its inputs. This folder produces the kernel's files
//! and their record; [`build`](mod@crate::build) assembles the image around them.

mod cached;
mod debian;
mod fragment;
mod plan;
mod source;
mod source_build;

pub(crate) use self::cached::Kernel;
pub(crate) use self::plan::KernelPlan;
