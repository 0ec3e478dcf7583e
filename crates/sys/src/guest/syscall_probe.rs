use std::cell::Cell;
use std::io;

/// Memory for the arguments and results of a call.
type Buffer = [Cell<u64>; 64];

/// A system call that a program in a guest must not be able to make, for a probe of the isolation. Its arguments
/// are valid, and harmless if the isolation fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SyscallProbe {
    /// `acct`, to turn it off.
    Accounting,
    /// `add_key`, to its session.
    AddKey,
    /// `adjtimex`, of the estimated error.
    AdjustClock,
    /// `bpf`, for a map of one entry.
    Bpf,
    /// `fanotify_init`, as an ordinary user may.
    Fanotify,
    /// `io_uring_setup`, for one entry.
    IoUring,
    /// `ioperm`, for the serial port.
    IoPermission,
    /// `iopl`.
    IoPrivilege,
    /// `kexec_load`, of nothing.
    Kexec,
    /// `modify_ldt`, to read it.
    LocalDescriptors,
    /// `mmap` of the page at zero.
    PageZero,
    /// `open_by_handle_at`.
    OpenByHandle,
    /// `perf_event_open`, for this process outside of the kernel.
    PerfEvent,
    /// `process_vm_readv`, of eight bytes of this process.
    ReadMemory(i32),
    /// `prlimit64`, to see how many files this process may open.
    ReadLimit(i32),
    /// `sched_setscheduler`, for the lowest real-time priority.
    RealTime,
    /// `ptrace`, to seize this process.
    Trace(i32),
    /// `setresuid`.
    SetUser(u32),
    /// `setresgid`.
    SetGroup(u32),
    /// `swapon`.
    Swap,
    /// `syslog`, to read all.
    KernelLog,
    /// `unshare`, of these namespaces (`CLONE_NEW…`).
    Unshare(i32),
    /// `userfaultfd`, as an ordinary user may.
    UserFault,
}

impl SyscallProbe {
    /// Makes the call and returns its result.
    ///
    /// # Errors
    /// The error of the kernel.
    pub fn make(self) -> io::Result<i64> {
        // The memory that the call reads or writes.
        let buffer = [const { Cell::new(0_u64) }; 64];
        let (call, [a, b, c, d, e, f]) = self.prepare(&buffer);

        // SAFETY: each of the calls reads and writes only `buffer`, within its bounds, and static strings;
        // none accesses other memory of this process.
        let result = unsafe { libc::syscall(call, a, b, c, d, e, f) };
        match result {
            -1 => Err(io::Error::last_os_error()),
            value => Ok(value),
        }
    }

    /// Returns the number and the arguments of the call, and fills the buffer in the kernel's layout.
    fn prepare(self, buffer: &Buffer) -> (libc::c_long, [usize; 6]) {
        let at = buffer.as_ptr() as usize;
        let put = |words: &[u64]| {
            let slots = buffer.iter().zip(words);
            slots.for_each(|(slot, word)| slot.set(*word));
        };
        let minus_one = usize::MAX;
        let number = |n: u32| n as usize;

        match self {
            Self::Accounting => (libc::SYS_acct, [0; 6]),
            Self::AddKey => {
                let (kind, name) = (c"user".as_ptr() as usize, c"probe".as_ptr() as usize);
                let session = libc::KEY_SPEC_SESSION_KEYRING as usize;
                (libc::SYS_add_key, [kind, name, at, 1, session, 0])
            }
            Self::AdjustClock => {
                put(&[u64::from(libc::ADJ_ESTERROR)]);
                (libc::SYS_adjtimex, [at, 0, 0, 0, 0, 0])
            }
            Self::Bpf => {
                // BPF_MAP_CREATE: an array, keys and values of four bytes, one entry.
                put(&[2 | 4 << 32, 4 | 1 << 32]);
                (libc::SYS_bpf, [0, at, 48, 0, 0, 0])
            }
            Self::Fanotify => {
                let flags = number(libc::FAN_REPORT_FID);
                (libc::SYS_fanotify_init, [flags, 0, 0, 0, 0, 0])
            }
            Self::IoUring => (libc::SYS_io_uring_setup, [1, at, 0, 0, 0, 0]),
            Self::IoPermission => (libc::SYS_ioperm, [0x3f8, 8, 1, 0, 0, 0]),
            Self::IoPrivilege => (libc::SYS_iopl, [3, 0, 0, 0, 0, 0]),
            Self::Kexec => (libc::SYS_kexec_load, [0; 6]),
            Self::LocalDescriptors => (libc::SYS_modify_ldt, [0, at, 16, 0, 0, 0]),
            Self::PageZero => {
                let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
                let (read, flags) = (libc::PROT_READ as usize, flags as usize);
                (libc::SYS_mmap, [0, 4096, read, flags, minus_one, 0])
            }
            Self::OpenByHandle => {
                let here = libc::AT_FDCWD as usize;
                (libc::SYS_open_by_handle_at, [here, at, 0, 0, 0, 0])
            }
            Self::PerfEvent => {
                // PERF_TYPE_SOFTWARE, the first size of the structure; then disabled, exclude_kernel, exclude_hv.
                put(&[1 | 64 << 32, 0, 0, 0, 0, 1 | 1 << 5 | 1 << 6]);
                let arguments = [at, 0, minus_one, minus_one, 0, 0];
                (libc::SYS_perf_event_open, arguments)
            }
            Self::ReadMemory(pid) => {
                // Eight bytes from the usual address of programs, into the end of the buffer.
                put(&[at as u64 + 256, 8, 0x40_0000, 8]);
                let arguments = [pid as usize, at, 1, at + 16, 1, 0];
                (libc::SYS_process_vm_readv, arguments)
            }
            Self::ReadLimit(pid) => {
                let files = number(libc::RLIMIT_NOFILE);
                (libc::SYS_prlimit64, [pid as usize, files, 0, at, 0, 0])
            }
            Self::RealTime => {
                put(&[1]);
                let first_in_first_out = libc::SCHED_FIFO as usize;
                let arguments = [0, first_in_first_out, at, 0, 0, 0];
                (libc::SYS_sched_setscheduler, arguments)
            }
            Self::Trace(pid) => {
                let seize = number(libc::PTRACE_SEIZE);
                (libc::SYS_ptrace, [seize, pid as usize, 0, 0, 0, 0])
            }
            Self::SetUser(user) => (libc::SYS_setresuid, same_ids(user)),
            Self::SetGroup(group) => (libc::SYS_setresgid, same_ids(group)),
            Self::Swap => {
                let disk = c"/dev/vda".as_ptr() as usize;
                (libc::SYS_swapon, [disk, 0, 0, 0, 0, 0])
            }
            Self::KernelLog => (libc::SYS_syslog, [3, at, size_of_val(buffer), 0, 0, 0]),
            Self::Unshare(spaces) => (libc::SYS_unshare, [spaces as usize, 0, 0, 0, 0, 0]),
            Self::UserFault => (libc::SYS_userfaultfd, [1, 0, 0, 0, 0, 0]),
        }
    }
}

/// Returns arguments that set the real, the effective and the saved id.
fn same_ids(id: u32) -> [usize; 6] {
    let id = id as usize;
    [id, id, id, 0, 0, 0]
}
