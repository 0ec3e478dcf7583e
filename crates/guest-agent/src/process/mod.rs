//! Processes and their confinement: user, cgroup, limits, environment and pipes.
//!
//! This folder starts and kills processes. The output of a program and its timeout belong to `operation`.

mod cgroup;
mod confinement;
mod error;
mod fork_marks;
mod memory_watch;
mod pipes;
mod process;
pub(crate) mod procfs;

pub(crate) use cgroup::{Cgroup, Cgroups, Usage};
pub(crate) use confinement::{Confinement, User};
pub(crate) use error::agent_error;
pub(crate) use fork_marks::ForkMarks;
pub(crate) use memory_watch::MemoryWatch;
pub(crate) use pipes::{drain, input_pipe, open_reader, open_writer, output_pipe};
pub(crate) use process::{CodeFile, FileStamp, Process};
