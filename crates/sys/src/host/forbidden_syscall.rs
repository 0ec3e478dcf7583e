use std::io;

/// System calls that QEMU must not make, and for which there is no safe wrapper.
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
    /// Counts processor events.
    PerfEventOpen,
    /// Sets up a queue of system calls that bypasses seccomp filters.
    IoUringSetup,
    /// Suspends the kernel at a page fault.
    Userfaultfd,
    /// Changes kernel keys.
    Keyctl,
    /// Opens a file by its inode, bypassing all directories.
    OpenByHandleAt,
    /// Loads a kernel module.
    InitModule,
    /// Changes the execution domain of this process.
    Personality,
    /// Creates a process; its flags are in memory, where no filter can see them.
    Clone3,
    /// Creates namespaces for this process.
    Unshare,
    /// Moves this process into other namespaces.
    Setns,
    /// Mounts a file system.
    Mount,
    /// Unmounts a file system.
    Umount,
    /// Changes the root directory.
    Chroot,
    /// Changes the root of the whole mount namespace.
    PivotRoot,
    /// Changes the host name.
    Sethostname,
    /// `getpid` in the x32 numbering, the second one of x86_64.
    X32,
}

impl ForbiddenSyscall {
    /// All variants.
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

/// Makes the call with arguments that no call accepts, and returns whether it reached the kernel's
/// implementation, even if that rejected it.
#[must_use]
pub fn reaches_kernel(call: ForbiddenSyscall) -> bool {
    const INVALID: libc::c_long = -1;
    // SAFETY: the arguments name no memory, no descriptor and no process that could exist (-1, which is
    // not an address of user space; for `personality` it queries the current value), so each of these
    // calls can only fail or return a number.
    let result = unsafe {
        libc::syscall(
            call.number(),
            INVALID,
            INVALID,
            INVALID,
            INVALID,
            INVALID,
            INVALID,
        )
    };
    result != -1 || io::Error::last_os_error().raw_os_error() != Some(libc::ENOSYS)
}
