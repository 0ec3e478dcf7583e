//! The state of a process in the kernel, besides its memory.

use serde::{Deserialize, Serialize};

/// The registers of a thread that waits in a system call. Others hold nothing there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registers {
    /// `rax`, `rbx`, `rcx`, `rdx`, `rsi`, `rdi`, `rbp`, `rsp`, `r8` to `r15`.
    pub general: [u64; 16],
    /// `rip`.
    pub instruction: u64,
    /// The flags.
    pub flags: u64,
    /// `cs` and `ss`.
    pub segments: [u16; 2],
    /// The base of `fs`, the thread's own data.
    pub thread_pointer: u64,
}

impl Registers {
    pub(super) fn new(from: &libc::user_regs_struct) -> Self {
        let segment = |value: u64| u16::try_from(value).unwrap_or(0);
        Self {
            general: [
                from.rax, from.rbx, from.rcx, from.rdx, from.rsi, from.rdi, from.rbp, from.rsp,
                from.r8, from.r9, from.r10, from.r11, from.r12, from.r13, from.r14, from.r15,
            ],
            instruction: from.rip,
            flags: from.eflags,
            segments: [segment(from.cs), segment(from.ss)],
            thread_pointer: from.fs_base,
        }
    }
}

/// A registration of restartable sequences; the address is 0 if there is none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestartableSequences {
    /// The address of the thread's structure.
    pub address: u64,
    /// Its size in bytes.
    pub bytes: u32,
    /// The signature before handlers of aborts.
    pub signature: u32,
}

/// A thread that waits in a system call, with its state in the kernel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ThreadState {
    /// Its registers when the call returns.
    pub registers: Registers,
    /// The address that the kernel clears when the thread exits, where the C library keeps the thread's id.
    pub clear_on_exit: u64,
    /// Address and size of the list of locks that the kernel releases when the thread dies.
    pub robust_list: (u64, u64),
    /// Its restartable sequences.
    pub restartable_sequences: RestartableSequences,
    /// Blocked signals, one bit each.
    pub signal_mask: u64,
    /// The control word of the floating-point unit.
    pub floating_point_control: u16,
    /// The control and status register of vector instructions (`mxcsr`).
    pub vector_control: u32,
    /// Its name.
    pub name: String,
}

/// How a process handles a signal, as the kernel stores it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignalAction {
    /// The signal.
    pub signal: u8,
    /// The address of the handler, 0 = default, 1 = ignored.
    pub handler: u64,
    /// The flags.
    pub flags: u64,
    /// The address of the code that returns from the handler.
    pub restorer: u64,
    /// Signals that are blocked meanwhile.
    pub mask: u64,
}

/// A mapping that the kernel itself adds to each process: code that reads clocks, and its data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelMapping {
    /// Its name in `/proc/PID/maps`, such as `[vdso]`.
    pub name: String,
    /// Its address.
    pub address: u64,
    /// Its size in bytes.
    pub bytes: u64,
}

/// The addresses that the kernel records about a process: code, data, heap, stack, arguments, environment. In the order
/// of `struct prctl_mm_map`.
pub type MemoryLayout = [u64; 11];

/// Returns the mappings of the kernel in the text of `/proc/PID/maps`.
#[must_use]
pub fn kernel_mappings(maps: &str) -> Vec<KernelMapping> {
    let parse = |line: &str| {
        let (range, rest) = line.split_once(' ')?;
        let (start, end) = range.split_once('-')?;
        let address = |text| u64::from_str_radix(text, 16).ok();
        let (start, end) = (address(start)?, address(end)?);
        let name = rest.split_ascii_whitespace().last()?;
        let is_kernel = name.starts_with("[vvar") || name == "[vdso]";
        is_kernel.then(|| KernelMapping {
            name: name.to_string(),
            address: start,
            bytes: end - start,
        })
    };
    maps.lines().filter_map(parse).collect()
}
