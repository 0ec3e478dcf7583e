use std::arch::{asm, global_asm};
use std::io;

use rustix::mm::{MapFlags, MprotectFlags, ProtFlags, mmap_anonymous, mprotect};
use serde::{Deserialize, Serialize};

use super::descriptors::FIRST_MOVED;

/// The first address of the memory in which a continuation is prepared. It stays mapped in the continued process, so no
/// image may have anything there: 32 GiB. Programs at fixed addresses start at 4 MiB, and their heaps within the next GiB.
/// Other programs, libraries and stacks are far above.
pub const CONTINUATION_START: u64 = 32 << 30;
/// The size of that memory, in bytes. Only what is used takes memory.
pub const CONTINUATION_BYTES: u64 = 16 << 20;

// A heap of a program at a fixed address starts up to 1 GiB above it, and the launcher is such a program.
const _: () = assert!(CONTINUATION_START >= 2 << 30);

/// Where the parts of that memory start: code, steps, data that the steps refer to, and a place for mappings of the kernel.
const STEPS_START: u64 = CONTINUATION_START + PAGE;
const DATA_START: u64 = CONTINUATION_START + (4 << 20);
const KERNEL_PARKING: u64 = CONTINUATION_START + (12 << 20);

const PAGE: u64 = 4096;

/// The end of the addresses of a process on x86_64 with four levels of page tables.
const ADDRESSES_END: u64 = 0x7fff_ffff_f000;

/// The number of signals.
const SIGNALS: u64 = 64;

/// The flags of a new thread, as glibc sets them.
const THREAD: libc::c_int = libc::CLONE_VM
    | libc::CLONE_FS
    | libc::CLONE_FILES
    | libc::CLONE_SIGHAND
    | libc::CLONE_THREAD
    | libc::CLONE_SYSVSEM
    | libc::CLONE_SETTLS
    | libc::CLONE_PARENT_SETTID
    | libc::CLONE_CHILD_CLEARTID;

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

/// A thread that waits in a system call, and what the kernel knows about it.
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

/// One step of a continuation: a system call, or something that is marked by a negative number in its place.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
struct Step {
    number: i64,
    arguments: [u64; 6],
    /// For `clone`: the address of the steps of the new thread.
    steps_of_thread: u64,
    /// The address of a message for the case that the call fails: its length, then its bytes.
    message: u64,
}

/// Instead of a call: stores the second argument, 32 bits, at the address in the first one.
const STORE: i64 = -1;

// Executes steps, from the one at `rbx`, until a thread returns to its registers. It uses no memory but the steps: the
// memory of the program that prepared them, its stack too, is gone. A failed call writes its message to standard error and
// ends the process with the number of the error.
global_asm!(
    ".pushsection .text.fumehood_continuation, \"ax\"",
    ".hidden fumehood_continuation_code",
    ".hidden fumehood_continuation_code_end",
    ".globl fumehood_continuation_code",
    ".globl fumehood_continuation_code_end",
    "fumehood_continuation_code:",
    "2:",
    "mov rax, [rbx]",
    "mov rdi, [rbx + 8]",
    "mov rsi, [rbx + 16]",
    "mov rdx, [rbx + 24]",
    "mov r10, [rbx + 32]",
    "mov r8, [rbx + 40]",
    "mov r9, [rbx + 48]",
    "cmp rax, {store}",
    "je 4f",
    "cmp rax, {sigreturn}",
    "je 5f",
    "syscall",
    "cmp rax, -4095",
    "jae 6f",
    "test rax, rax",
    "jnz 3f",
    "cmp qword ptr [rbx], {clone}",
    "jne 3f",
    // The new thread has its own steps.
    "mov rbx, [rbx + 56]",
    "jmp 2b",
    "3:",
    "add rbx, {step_bytes}",
    "jmp 2b",
    "4:",
    "mov dword ptr [rdi], esi",
    "jmp 3b",
    "5:",
    "mov rsp, rdi",
    "syscall",
    "hlt",
    "6:",
    "mov r12, rax",
    "mov rsi, [rbx + 64]",
    "mov rdx, [rsi]",
    "add rsi, 8",
    "mov edi, 2",
    "mov eax, {write}",
    "syscall",
    "mov rdi, r12",
    "neg rdi",
    "mov eax, {exit_group}",
    "syscall",
    "hlt",
    "fumehood_continuation_code_end:",
    ".popsection",
    store = const STORE,
    sigreturn = const libc::SYS_rt_sigreturn,
    clone = const libc::SYS_clone,
    write = const libc::SYS_write,
    exit_group = const libc::SYS_exit_group,
    step_bytes = const size_of::<Step>(),
);

unsafe extern "C" {
    static fumehood_continuation_code: u8;
    static fumehood_continuation_code_end: u8;
}

/// Prepares the replacement of this process's memory and threads by those of an image: as an exec, but into the middle
/// of a program. Nothing happens before [`run`](Self::run).
#[derive(Debug)]
pub struct Continuation {
    steps: Vec<Step>,
    data: Vec<u8>,
    /// The messages in the data, and their addresses.
    messages: Vec<(&'static str, u64)>,
}

impl Continuation {
    /// Starts with the replacement of all memory: only the mappings of the kernel stay, `own`, and move to where the image
    /// expects them, `target`.
    ///
    /// # Errors
    /// A message: the kernel's mappings differ, so the image is of another kernel.
    pub fn new(own: &[KernelMapping], target: &[KernelMapping]) -> Result<Self, String> {
        let mut this = Self {
            steps: Vec::new(),
            data: Vec::new(),
            messages: Vec::new(),
        };

        let shape = |mappings: &[KernelMapping]| {
            let first = mappings.first().map_or(0, |mapping| mapping.address);
            let relative = mappings
                .iter()
                .map(|m| (m.name.clone(), m.address.wrapping_sub(first), m.bytes));
            relative.collect::<Vec<_>>()
        };
        if shape(own) != shape(target) {
            return Err("the mappings of the kernel differ from those of the image".into());
        }

        // Their places in the image may be in use by this program, so they are parked while its memory is unmapped.
        let mut parked = Vec::new();
        let mut parking = KERNEL_PARKING;
        for mapping in own {
            this.move_mapping(mapping.address, parking, mapping.bytes);
            parked.push(parking);
            parking += mapping.bytes;
        }

        let end = CONTINUATION_START + CONTINUATION_BYTES;
        for (start, end) in [(0, CONTINUATION_START), (end, ADDRESSES_END)] {
            this.call(
                "cannot unmap memory",
                libc::SYS_munmap,
                &[start, end - start],
            );
        }
        for (parked, mapping) in parked.into_iter().zip(target) {
            this.move_mapping(parked, mapping.address, mapping.bytes);
        }
        Ok(this)
    }

    /// Maps memory privately: from a file, or empty. `protection` has the bits of `PROT_READ`, `PROT_WRITE`, `PROT_EXEC`.
    pub fn map(&mut self, address: u64, bytes: u64, protection: u32, file: Option<(i32, u64)>) {
        let mut flags = libc::MAP_PRIVATE | libc::MAP_FIXED | libc::MAP_NORESERVE;
        let (fd, offset) = file.unwrap_or_else(|| {
            flags |= libc::MAP_ANONYMOUS;
            (-1, 0)
        });
        self.call(
            "cannot map memory",
            libc::SYS_mmap,
            &[
                address,
                bytes,
                u64::from(protection),
                unsigned(flags),
                unsigned(fd),
                offset,
            ],
        );
    }

    /// Fills the page tables of writable memory at once, with private copies of its pages.
    pub fn populate(&mut self, address: u64, bytes: u64) {
        const MADV_POPULATE_WRITE: u64 = 23;
        self.call(
            "cannot prepare memory",
            libc::SYS_madvise,
            &[address, bytes, MADV_POPULATE_WRITE],
        );
    }

    /// Closes the files that [`place_descriptors`](super::place_descriptors) has placed above all other descriptors.
    pub fn close_files(&mut self) {
        let last = unsigned(libc::c_int::MAX);
        self.call(
            "cannot close files",
            libc::SYS_close_range,
            &[unsigned(FIRST_MOVED), last, 0],
        );
    }

    /// Handles these signals as described, and all others by default.
    pub fn handle_signals(&mut self, actions: &[SignalAction]) {
        let unchangeable = [libc::SIGKILL, libc::SIGSTOP].map(unsigned);
        for signal in (1..=SIGNALS).filter(|signal| !unchangeable.contains(signal)) {
            let action = actions
                .iter()
                .find(|action| u64::from(action.signal) == signal);
            let words = action.map_or([0; 4], |action| {
                [action.handler, action.flags, action.restorer, action.mask]
            });
            let address = self.put_words(&words);
            self.call(
                "cannot handle a signal",
                libc::SYS_rt_sigaction,
                &[signal, address, 0, 8],
            );
        }

        // The runtime of this program has set an alternative stack.
        let none = self.put_words(&[0, u64::from(SS_DISABLE), 0]);
        self.call("cannot remove a stack", libc::SYS_sigaltstack, &[none, 0]);
    }

    /// Records the addresses of code, data, heap and stack. The heap grows where it ends.
    pub fn set_layout(&mut self, layout: &MemoryLayout) {
        const PR_SET_MM: u64 = 35;
        const PR_SET_MM_MAP: u64 = 14;
        /// Size of `struct prctl_mm_map`, in bytes: the addresses, an auxiliary vector, its size, an executable.
        const MAP_BYTES: u64 = 11 * 8 + 8 + 4 + 4;

        let mut bytes: Vec<u8> = layout
            .iter()
            .flat_map(|address| address.to_ne_bytes())
            .collect();
        bytes.extend([0; 12]);
        // No change of the executable.
        bytes.extend((-1_i32).to_ne_bytes());
        let address = self.put(&bytes);
        self.call(
            "cannot set the layout of the memory",
            libc::SYS_prctl,
            &[PR_SET_MM, PR_SET_MM_MAP, address, MAP_BYTES, 0],
        );
    }

    /// Applies a filter of system calls (the instructions of a BPF program, 8 bytes each) to the process. All later steps
    /// must pass it.
    pub fn filter(&mut self, program: &[u8]) {
        const SECCOMP_SET_MODE_FILTER: u64 = 1;
        let instructions = self.put(program);
        let length = program.len() as u64 / 8;
        // `struct sock_fprog`: a length of 16 bits, and a pointer.
        let header = self.put_words(&[length & 0xffff, instructions]);
        self.call(
            "cannot filter system calls",
            libc::SYS_seccomp,
            &[SECCOMP_SET_MODE_FILTER, 0, header],
        );
    }

    /// Replaces this process. `id` is its process id in its own namespace. The first of `threads` is the main thread.
    ///
    /// # Errors
    /// Returns only on failure: `InvalidInput` if there are several threads here, or too much was prepared; or the error
    /// of the operating system.
    pub fn run(mut self, id: u32, threads: &[ThreadState]) -> io::Error {
        let Some((main, others)) = threads.split_first() else {
            return io::ErrorKind::InvalidInput.into();
        };
        match std::fs::read_dir("/proc/self/task").map(Iterator::count) {
            Ok(1) | Err(_) => {}
            Ok(_) => return io::ErrorKind::InvalidInput.into(),
        }

        // The steps of the other threads come after those of the main thread, whose number is known only at the end.
        let mut clones = Vec::new();
        for thread in others {
            clones.push((self.steps.len(), thread));
            let registers = &thread.registers;
            self.call(
                "cannot start a thread",
                libc::SYS_clone,
                &[
                    unsigned(THREAD),
                    DATA_START,
                    thread.clear_on_exit,
                    thread.clear_on_exit,
                    registers.thread_pointer,
                ],
            );
        }

        self.steps.push(Step {
            number: STORE,
            arguments: [main.clear_on_exit, u64::from(id), 0, 0, 0, 0],
            ..Step::default()
        });
        self.call(
            "cannot set the thread's id",
            libc::SYS_set_tid_address,
            &[main.clear_on_exit],
        );
        const ARCH_SET_FS: u64 = 0x1002;
        self.call(
            "cannot set the thread's data",
            libc::SYS_arch_prctl,
            &[ARCH_SET_FS, main.registers.thread_pointer],
        );
        self.enter_thread(main);
        for (at, thread) in clones {
            self.steps[at].steps_of_thread =
                STEPS_START + (self.steps.len() * size_of::<Step>()) as u64;
            self.enter_thread(thread);
        }

        match self.place() {
            // SAFETY: the steps and everything they refer to are in place, and are executed by code that lies there too.
            // This process has one thread, whose stack and heap are not used any more.
            Ok(()) => unsafe {
                asm!(
                    "mov rbx, rsi",
                    "jmp rdi",
                    in("rsi") STEPS_START,
                    in("rdi") CONTINUATION_START,
                    options(noreturn)
                )
            },
            Err(error) => error,
        }
    }

    /// Sets what the kernel knows about a thread, and returns to its registers.
    fn enter_thread(&mut self, thread: &ThreadState) {
        let (address, bytes) = thread.robust_list;
        if address != 0 {
            self.call(
                "cannot set the list of locks",
                libc::SYS_set_robust_list,
                &[address, bytes],
            );
        }

        let sequences = &thread.restartable_sequences;
        if sequences.address != 0 {
            self.call(
                "cannot register restartable sequences",
                libc::SYS_rseq,
                &[
                    sequences.address,
                    u64::from(sequences.bytes),
                    0,
                    u64::from(sequences.signature),
                ],
            );
        }

        let mut name = thread.name.clone().into_bytes();
        name.truncate(15);
        name.push(0);
        let name = self.put(&name);
        self.call(
            "cannot set a name",
            libc::SYS_prctl,
            &[unsigned(libc::PR_SET_NAME), name],
        );

        let context = self.put_context(thread);
        self.call("cannot continue", libc::SYS_rt_sigreturn, &[context]);
    }

    /// Stores the registers as the kernel expects them from a signal's handler that returns: `struct ucontext`.
    fn put_context(&mut self, thread: &ThreadState) -> u64 {
        /// The stack segment is part of the context, and is restored.
        const UC_SIGCONTEXT_SS: u64 = 2;
        const UC_STRICT_RESTORE_SS: u64 = 4;

        // The area of `fxsave`: empty registers, and the two control words.
        let mut floating_point = [0_u8; 512];
        floating_point[0..2].copy_from_slice(&thread.floating_point_control.to_ne_bytes());
        floating_point[24..28].copy_from_slice(&thread.vector_control.to_ne_bytes());
        let floating_point = self.put(&floating_point);

        let Registers {
            general:
                [
                    rax,
                    rbx,
                    rcx,
                    rdx,
                    rsi,
                    rdi,
                    rbp,
                    rsp,
                    r8,
                    r9,
                    r10,
                    r11,
                    r12,
                    r13,
                    r14,
                    r15,
                ],
            instruction,
            flags,
            segments: [cs, ss],
            ..
        } = thread.registers;
        let segments = u64::from(cs) | u64::from(ss) << 48;
        // No alternative stack.
        let start = [
            UC_SIGCONTEXT_SS | UC_STRICT_RESTORE_SS,
            0,
            0,
            u64::from(SS_DISABLE),
            0,
        ];
        let registers = [
            r8,
            r9,
            r10,
            r11,
            r12,
            r13,
            r14,
            r15,
            rdi,
            rsi,
            rbp,
            rbx,
            rdx,
            rax,
            rcx,
            rsp,
            instruction,
            flags,
            segments,
            0,
            0,
            0,
            0,
            floating_point,
        ];
        let reserved = [0; 8];
        let words = [&start[..], &registers, &reserved, &[thread.signal_mask]].concat();
        self.put_words(&words)
    }

    fn move_mapping(&mut self, from: u64, to: u64, bytes: u64) {
        let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
        self.call(
            "cannot move a mapping of the kernel",
            libc::SYS_mremap,
            &[from, bytes, bytes, unsigned(flags), to],
        );
    }

    /// Adds a system call. `failure` is written if it fails.
    fn call(&mut self, failure: &'static str, number: libc::c_long, arguments: &[u64]) {
        let message = self.put_message(failure);
        let mut padded = [0; 6];
        padded[..arguments.len()].copy_from_slice(arguments);
        self.steps.push(Step {
            number,
            arguments: padded,
            steps_of_thread: 0,
            message,
        });
    }

    /// Stores a message for the case that a call fails, once.
    fn put_message(&mut self, failure: &'static str) -> u64 {
        if let Some((_, address)) = self
            .messages
            .iter()
            .rev()
            .find(|(text, _)| *text == failure)
        {
            return *address;
        }
        let text = format!("cannot continue a process image: {failure}\n");
        let message = [&(text.len() as u64).to_ne_bytes(), text.as_bytes()].concat();
        let address = self.put(&message);
        self.messages.push((failure, address));
        address
    }

    /// Stores data that a step refers to, and returns its address.
    fn put(&mut self, bytes: &[u8]) -> u64 {
        /// What `fxrstor` requires is enough for all.
        const ALIGNMENT: usize = 16;
        let start = self.data.len().next_multiple_of(ALIGNMENT);
        self.data.resize(start, 0);
        self.data.extend_from_slice(bytes);
        DATA_START + start as u64
    }

    fn put_words(&mut self, words: &[u64]) -> u64 {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        self.put(&bytes)
    }

    /// Copies code, steps and data to where they are executed.
    fn place(&self) -> io::Result<()> {
        let steps_bytes = self.steps.len() * size_of::<Step>();
        let fits = STEPS_START + steps_bytes as u64 <= DATA_START
            && DATA_START + self.data.len() as u64 <= KERNEL_PARKING;
        if !fits {
            return Err(io::ErrorKind::InvalidInput.into());
        }

        let start = std::ptr::without_provenance_mut::<libc::c_void>(address(CONTINUATION_START));
        let readable = ProtFlags::READ | ProtFlags::WRITE;
        let flags = MapFlags::PRIVATE | MapFlags::FIXED_NOREPLACE | MapFlags::NORESERVE;
        // SAFETY: the kernel refuses the address if anything is mapped there, so the mapping replaces no memory.
        let region = unsafe {
            mmap_anonymous(
                start,
                address(KERNEL_PARKING - CONTINUATION_START),
                readable,
                flags,
            )?
        }
        .cast::<u8>();

        // SAFETY: the mapping is new, and large enough for each part, as checked above. Code and its end are symbols in
        // one section.
        unsafe {
            let code = &raw const fumehood_continuation_code;
            let code_bytes = (&raw const fumehood_continuation_code_end).offset_from_unsigned(code);
            std::ptr::copy_nonoverlapping(code, region, code_bytes);
            let steps = region.add(address(STEPS_START - CONTINUATION_START));
            std::ptr::copy_nonoverlapping(self.steps.as_ptr().cast(), steps, steps_bytes);
            let data = region.add(address(DATA_START - CONTINUATION_START));
            std::ptr::copy_nonoverlapping(self.data.as_ptr(), data, self.data.len());
            mprotect(
                region.cast(),
                address(PAGE),
                MprotectFlags::READ | MprotectFlags::EXEC,
            )?;
        }
        Ok(())
    }
}

/// The flag of an alternative stack that does not exist.
const SS_DISABLE: u32 = 2;

const fn address(value: u64) -> usize {
    value as usize
}

/// An argument of a call as the kernel sees it.
fn unsigned(value: libc::c_int) -> u64 {
    i64::from(value).cast_unsigned()
}
