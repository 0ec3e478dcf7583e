//! A stopped process as data: how its registers are read, and how a new process continues from them.
//!
//! What an image consists of, and where it is stored, is decided elsewhere.

mod continuation;
mod descriptors;
mod tracer;
#[cfg(test)]
mod tests;

pub use continuation::{
    CONTINUATION_BYTES, CONTINUATION_START, Continuation, KernelMapping, MemoryLayout, Registers,
    RestartableSequences, SignalAction, ThreadState, kernel_mappings,
};
pub use descriptors::{
    DescriptorPlacement, duplicate_inherited, place_descriptors, signal_descriptor,
};
pub use tracer::{StopError, StoppedProcess};
