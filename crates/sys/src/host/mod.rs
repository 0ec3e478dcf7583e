//! The system calls that the engine and the launcher need around QEMU. Nothing here is used in a guest.

mod clone;
mod descriptor_limit;
mod exec_path;
#[cfg(feature = "probes")]
mod forbidden_arguments;
#[cfg(feature = "probes")]
mod forbidden_syscall;
mod heap;
mod kvm;
mod landlock;
mod memory_file;
mod mount_restriction;
mod process_image;
mod spawn;
mod tsc;

pub use clone::{CloneResult, Namespaces, clone_sibling};
pub use descriptor_limit::raise_descriptor_limit;
pub use exec_path::{EXEC_PATH_ADDRESS, EXEC_PATH_END, ExecPath};
#[cfg(feature = "probes")]
pub use forbidden_arguments::forbidden_arguments_that_reach_kernel;
#[cfg(feature = "probes")]
pub use forbidden_syscall::{ForbiddenSyscall, reaches_kernel};
pub use heap::{bound_heap, trim_heap};
pub use kvm::{KvmProbe, open_kvm, probe_kvm};
pub use landlock::{LandlockRuleset, landlock_abi};
pub use memory_file::{memory_file, seal, sealable_file};
pub use mount_restriction::{MountRestriction, restrict_mounts};
pub use process_image::{
    CONTINUATION_BYTES, CONTINUATION_START, Continuation, DescriptorPlacement, KernelMapping,
    MemoryLayout, Registers, RestartableSequences, SignalAction, StopError, StoppedProcess,
    THREAD_FLAGS, ThreadState, duplicate_inherited, kernel_mappings, place_descriptors,
    signal_descriptor,
};
pub use spawn::{Credentials, SpawnSpec, can_setuid, close_fds_except, spawn};
pub use tsc::tsc_khz;
