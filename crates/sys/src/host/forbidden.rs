use std::io;

/// System calls that a QEMU has no business with and that a program cannot make by safe means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ForbiddenSyscall {
    /// Traces another process.
    Ptrace,
    /// Reads another process's memory.
    ProcessVmReadv,
    /// Writes another process's memory.
    ProcessVmWritev,
    /// Loads a BPF program.
    Bpf,
    /// Counts events of the processor.
    PerfEventOpen,
    /// Makes a ring of calls that no filter sees.
    IoUringSetup,
    /// Holds up the kernel at a page.
    Userfaultfd,
    /// Touches keys.
    Keyctl,
    /// Opens a file by its number, past all directories.
    OpenByHandleAt,
    /// Loads a module.
    InitModule,
    /// Changes how the kernel sees this process.
    Personality,
    /// Makes a process with flags in memory.
    Clone3,
    /// Makes namespaces for this process.
    Unshare,
    /// Moves this process into other namespaces.
    Setns,
    /// Mounts.
    Mount,
    /// Takes a mount away.
    Umount,
    /// Takes another root.
    Chroot,
    /// Takes another root, for the whole namespace.
    PivotRoot,
    /// Names the host.
    Sethostname,
    /// The second numbering of x86_64: `getpid` in it.
    X32,
}

impl ForbiddenSyscall {
    /// All of them.
    pub const ALL: [Self; 20] = [
        Self::Ptrace,
        Self::ProcessVmReadv,
        Self::ProcessVmWritev,
        Self::Bpf,
        Self::PerfEventOpen,
        Self::IoUringSetup,
        Self::Userfaultfd,
        Self::Keyctl,
        Self::OpenByHandleAt,
        Self::InitModule,
        Self::Personality,
        Self::Clone3,
        Self::Unshare,
        Self::Setns,
        Self::Mount,
        Self::Umount,
        Self::Chroot,
        Self::PivotRoot,
        Self::Sethostname,
        Self::X32,
    ];

    const fn number(self) -> libc::c_long {
        const X32_BIT: libc::c_long = 0x4000_0000;
        match self {
            Self::Ptrace => libc::SYS_ptrace,
            Self::ProcessVmReadv => libc::SYS_process_vm_readv,
            Self::ProcessVmWritev => libc::SYS_process_vm_writev,
            Self::Bpf => libc::SYS_bpf,
            Self::PerfEventOpen => libc::SYS_perf_event_open,
            Self::IoUringSetup => libc::SYS_io_uring_setup,
            Self::Userfaultfd => libc::SYS_userfaultfd,
            Self::Keyctl => libc::SYS_keyctl,
            Self::OpenByHandleAt => libc::SYS_open_by_handle_at,
            Self::InitModule => libc::SYS_init_module,
            Self::Personality => libc::SYS_personality,
            Self::Clone3 => libc::SYS_clone3,
            Self::Unshare => libc::SYS_unshare,
            Self::Setns => libc::SYS_setns,
            Self::Mount => libc::SYS_mount,
            Self::Umount => libc::SYS_umount2,
            Self::Chroot => libc::SYS_chroot,
            Self::PivotRoot => libc::SYS_pivot_root,
            Self::Sethostname => libc::SYS_sethostname,
            Self::X32 => X32_BIT | libc::SYS_getpid,
        }
    }
}

/// Whether the kernel takes up such a call, if only to refuse it: made with arguments that no call accepts.
#[must_use]
pub fn reaches_kernel(call: ForbiddenSyscall) -> bool {
    const NONE: libc::c_long = -1;
    // SAFETY: the arguments name no memory, no descriptor and no process that there could be (-1, which
    // is no address of user space; for `personality` it is the question what it is), so that each of
    // these calls can only fail or tell a number.
    let result = unsafe { libc::syscall(call.number(), NONE, NONE, NONE, NONE, NONE, NONE) };
    result != -1 || io::Error::last_os_error().raw_os_error() != Some(libc::ENOSYS)
}
