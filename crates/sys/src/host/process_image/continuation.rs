use std::io;

use super::descriptors::FIRST_MOVED;
use super::state::{KernelMapping, MemoryLayout, Registers, SignalAction, ThreadState};
use super::steps::{
    CONTINUATION_BYTES, CONTINUATION_START, DATA_START, KERNEL_PARKING, STEPS_START, STORE, Step,
    execute,
};

/// The end of the addresses of a process on x86_64 with four levels of page tables.
const ADDRESSES_END: u64 = 0x7fff_ffff_f000;

/// The number of signals.
const SIGNALS: u64 = 64;

/// The flags of `clone` for a new thread, in glibc and musl: no new process, no namespace, no descriptor of a process.
pub const THREAD_FLAGS: libc::c_int = libc::CLONE_VM
    | libc::CLONE_FS
    | libc::CLONE_FILES
    | libc::CLONE_SIGHAND
    | libc::CLONE_THREAD
    | libc::CLONE_SYSVSEM
    | libc::CLONE_SETTLS
    | libc::CLONE_PARENT_SETTID
    | libc::CLONE_CHILD_CLEARTID;

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
                    unsigned(THREAD_FLAGS),
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

        execute(&self.steps, &self.data)
    }

    /// Restores the state of a thread in the kernel, and returns to its registers.
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
}

/// The flag of an alternative stack that does not exist.
const SS_DISABLE: u32 = 2;

/// An argument of a call as the kernel sees it.
fn unsigned(value: libc::c_int) -> u64 {
    i64::from(value).cast_unsigned()
}
