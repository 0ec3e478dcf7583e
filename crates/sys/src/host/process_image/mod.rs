//! A stopped process as data: how its registers are read, and how a new process continues from them.
//!
//! What an image consists of, and where it is stored, is decided elsewhere.

mod tracer;
mod continuation;
mod steps;
mod descriptors;
mod state;
#[cfg(test)]
mod tests;

pub use continuation::{Continuation, THREAD_FLAGS};
pub use descriptors::{
    DescriptorPlacement, duplicate_inherited, place_descriptors, signal_descriptor,
};
pub use state::{
    KernelMapping, MemoryLayout, Registers, RestartableSequences, SignalAction, ThreadState,
    kernel_mappings,
};
pub use steps::{CONTINUATION_BYTES, CONTINUATION_START};
pub use tracer::{StopError, StoppedProcess};
