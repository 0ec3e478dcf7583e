//! The system calls of QEMU. `docs/design/system-calls.md` says of each why it is allowed, and what bounds it.

use fumehood_sys::host::{EXEC_PATH_ADDRESS, EXEC_PATH_END, THREAD_FLAGS};

use super::condition::{Condition, address, number};

/// A system call: its name in the libc crate, and its number.
pub(super) type Call = (&'static str, libc::c_long);

/// Alternatives, each of which is a list of conditions that must all hold.
pub(super) type Alternatives = &'static [&'static [Condition]];

macro_rules! call {
    ($name:ident) => {
        (stringify!($name), libc::$name)
    };
}

macro_rules! calls {
    ($($name:ident)*) => {
        &[$(call!($name)),*]
    };
}

/// Calls that are allowed with all arguments: they act on this process's own memory, threads and descriptors, or on
/// files that the root and Landlock let it open.
pub(super) const UNCONDITIONAL: &[Call] = calls! {
    // Reading, writing, waiting.
    SYS_read SYS_write SYS_readv SYS_writev SYS_pread64 SYS_pwrite64 SYS_preadv SYS_pwritev SYS_preadv2 SYS_pwritev2
    SYS_lseek SYS_close SYS_close_range SYS_fsync SYS_fdatasync SYS_fallocate SYS_fadvise64 SYS_ftruncate
    SYS_poll SYS_ppoll SYS_select SYS_pselect6
    SYS_epoll_create SYS_epoll_create1 SYS_epoll_ctl SYS_epoll_wait SYS_epoll_pwait SYS_epoll_pwait2
    SYS_eventfd SYS_eventfd2 SYS_signalfd SYS_signalfd4 SYS_timerfd_settime SYS_timerfd_gettime
    SYS_pipe SYS_dup SYS_dup2 SYS_dup3
    // Files.
    SYS_stat SYS_fstat SYS_lstat SYS_newfstatat SYS_statx SYS_statfs SYS_fstatfs
    SYS_access SYS_faccessat SYS_faccessat2 SYS_readlink SYS_readlinkat SYS_getdents SYS_getdents64 SYS_getcwd SYS_umask
    // Memory.
    SYS_brk SYS_munmap SYS_mprotect SYS_pkey_alloc SYS_pkey_free SYS_pkey_mprotect
    SYS_msync SYS_mlock SYS_mlock2 SYS_munlock SYS_get_mempolicy SYS_set_mempolicy SYS_mbind
    // Threads and their time.
    SYS_set_robust_list SYS_rseq SYS_set_tid_address SYS_gettid SYS_sched_yield
    SYS_sched_get_priority_max SYS_sched_get_priority_min SYS_getcpu
    SYS_nanosleep SYS_gettimeofday SYS_time SYS_times
    SYS_timer_settime SYS_timer_gettime SYS_timer_getoverrun SYS_timer_delete SYS_setitimer SYS_getitimer SYS_alarm
    // Signals to itself.
    SYS_rt_sigaction SYS_rt_sigprocmask SYS_rt_sigpending SYS_rt_sigreturn SYS_rt_sigsuspend SYS_rt_sigtimedwait
    SYS_sigaltstack SYS_restart_syscall SYS_pause
    // Itself and its end.
    SYS_getpid SYS_getppid SYS_getpgrp SYS_getuid SYS_geteuid SYS_getgid SYS_getegid SYS_getresuid SYS_getresgid
    SYS_getgroups SYS_getrlimit SYS_getrusage SYS_uname SYS_sysinfo SYS_getrandom SYS_wait4 SYS_waitid
    SYS_exit SYS_exit_group
    // Inherited sockets. All of them are connected streams, which ignore or refuse the address of a message.
    SYS_recvfrom SYS_recvmsg SYS_sendmsg SYS_shutdown SYS_getsockname SYS_getpeername
};

/// Calls that are allowed with some arguments.
pub(super) const CONDITIONAL: &[(Call, Alternatives)] = &[
    // Files.
    (call!(SYS_open), &[&[number(1).without(CREATING)]]),
    (call!(SYS_openat), &[&[number(2).without(CREATING)]]),
    (call!(SYS_memfd_create), &[&[number(1).only(MEMFD_FLAGS)]]),
    (call!(SYS_pipe2), &[&[number(1).only(PIPE_FLAGS)]]),
    (call!(SYS_fcntl), FCNTL),
    (call!(SYS_ioctl), IOCTL),
    (
        call!(SYS_execve),
        &[&[address(0).is(EXEC_PATH_ADDRESS as u64)]],
    ),
    // Memory. Nothing is ever mapped where `execve` reads its path.
    (
        call!(SYS_mmap),
        &[
            &[address(0).is(0), number(3).without(MAP_SPECIAL)],
            &[
                address(0).at_least(EXEC_PATH_END as u64),
                number(3).without(MAP_SPECIAL),
            ],
        ],
    ),
    (
        call!(SYS_mremap),
        &[&[number(3).only(bits(libc::MREMAP_MAYMOVE))]],
    ),
    (
        call!(SYS_madvise),
        &[
            &[
                number(2).at_most(MADV_COLLAPSE),
                number(2).is_not(bits(libc::MADV_MERGEABLE)),
            ],
            &[
                number(2).at_least(MADV_GUARD_INSTALL),
                number(2).at_most(MADV_GUARD_REMOVE),
            ],
        ],
    ),
    (
        call!(SYS_membarrier),
        &[
            &[number(0).is(bits(libc::MEMBARRIER_CMD_QUERY))],
            &[number(0).is(bits(libc::MEMBARRIER_CMD_GLOBAL))],
            &[number(0).is(bits(libc::MEMBARRIER_CMD_PRIVATE_EXPEDITED))],
            &[number(0).is(bits(libc::MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED))],
        ],
    ),
    // Threads. `clone3` has its flags in memory, where a filter cannot see them; without it, glibc uses `clone`.
    (
        call!(SYS_clone),
        &[&[address(0).bits(!MUSL_CLONE_FLAG, THREAD)]],
    ),
    (call!(SYS_futex), FUTEX),
    (call!(SYS_arch_prctl), ARCH_PRCTL),
    (call!(SYS_prctl), PRCTL),
    (
        call!(SYS_seccomp),
        &[&[
            number(0).at_most(SECCOMP_GET_NOTIF_SIZES),
            number(1).without(SECCOMP_FILTER_FLAG_NEW_LISTENER),
        ]],
    ),
    (call!(SYS_tgkill), &[&[number(0).own_process()]]),
    // Facts about this process and no other.
    (call!(SYS_sched_getaffinity), &[&[number(0).is(0)]]),
    (
        call!(SYS_prlimit64),
        &[&[number(0).is(0), address(2).is(0)]],
    ),
    // Clocks with a larger number are those of other processes, or of devices.
    (call!(SYS_clock_gettime), STATIC_CLOCK),
    (call!(SYS_clock_getres), STATIC_CLOCK),
    (call!(SYS_clock_nanosleep), STATIC_CLOCK),
    (call!(SYS_timer_create), STATIC_CLOCK),
    (call!(SYS_timerfd_create), STATIC_CLOCK),
    // Sockets.
    (call!(SYS_sendto), &[&[address(4).is(0)]]),
    (call!(SYS_getsockopt), GETSOCKOPT),
    (call!(SYS_setsockopt), SETSOCKOPT),
];

/// Calls that QEMU needs only while it starts. The filter of a process that continues from an image does not allow them, so
/// that it cannot execute a program at all.
pub(super) const STARTUP: &[Call] = calls! {
    SYS_execve SYS_seccomp SYS_get_mempolicy SYS_set_mempolicy SYS_mbind
};

/// `ioctl` of `/dev/kvm` and the descriptors that it returns; only where QEMU has that device.
pub(super) const KVM_IOCTL: &[Condition] = &[number(1).bits(0xff00, 0xae00)];

/// Flags of `open` that create or change a file, or send signals.
const CREATING: u64 = bits(libc::O_CREAT)
    | bits(libc::O_TRUNC)
    | bits(libc::O_ASYNC)
    | bits(libc::O_TMPFILE & !libc::O_DIRECTORY);

/// Without `MFD_HUGETLB`: large pages belong to the host and are not in the cgroup's memory.
const MEMFD_FLAGS: u64 = libc::MFD_CLOEXEC as u64
    | libc::MFD_ALLOW_SEALING as u64
    | libc::MFD_NOEXEC_SEAL as u64
    | libc::MFD_EXEC as u64;

/// Without `O_NOTIFICATION_PIPE`, which turns a pipe into a queue of the kernel's events.
const PIPE_FLAGS: u64 = bits(libc::O_CLOEXEC) | bits(libc::O_NONBLOCK) | bits(libc::O_DIRECT);

/// Large pages, as for `memfd_create`; and mappings that grow downwards by themselves, past the check of their address.
const MAP_SPECIAL: u64 = bits(libc::MAP_HUGETLB) | bits(libc::MAP_GROWSDOWN);

const MADV_COLLAPSE: u64 = 25;
const MADV_GUARD_INSTALL: u64 = 102;
const MADV_GUARD_REMOVE: u64 = 103;

const THREAD: u64 = bits(THREAD_FLAGS);

/// musl sets this flag too; the kernel ignores it.
const MUSL_CLONE_FLAG: u64 = bits(libc::CLONE_DETACHED);

const SECCOMP_GET_NOTIF_SIZES: u64 = 3;
const SECCOMP_FILTER_FLAG_NEW_LISTENER: u64 = 1 << 3;

const STATIC_CLOCK: Alternatives = &[&[number(0).at_most(bits(libc::CLOCK_TAI))]];

/// Descriptors, locks, seals. Not who gets signals about a descriptor (`F_SETOWN`, `F_SETSIG`: a signal to any process
/// of the same user), not leases and notices (`F_SETLEASE`, `F_NOTIFY`: they hold up others), not the sizes of pipes.
const FCNTL: Alternatives = &[
    // F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_SETFL, F_GETLK, F_SETLK, F_SETLKW
    &[number(1).at_most(bits(libc::F_SETLKW))],
    &[number(1).is(bits(libc::F_DUPFD_CLOEXEC))],
    &[number(1).is(bits(libc::F_OFD_GETLK))],
    &[number(1).is(bits(libc::F_OFD_SETLK))],
    &[number(1).is(bits(libc::F_OFD_SETLKW))],
    &[number(1).is(bits(libc::F_ADD_SEALS))],
    &[number(1).is(bits(libc::F_GET_SEALS))],
];

/// Whether something is a terminal, how many bytes are ready, whether reading blocks.
const IOCTL: Alternatives = &[
    &[number(1).is(libc::TCGETS)],
    &[number(1).is(libc::FIONREAD)],
    &[number(1).is(libc::FIONBIO)],
    &[number(1).is(libc::FIOCLEX)],
    &[number(1).is(libc::FIONCLEX)],
];

/// What glibc's locks need. Not the operations that inherit priorities.
const FUTEX: Alternatives = &[
    &[futex_command(libc::FUTEX_WAIT)],
    &[futex_command(libc::FUTEX_WAKE)],
    &[futex_command(libc::FUTEX_REQUEUE)],
    &[futex_command(libc::FUTEX_CMP_REQUEUE)],
    &[futex_command(libc::FUTEX_WAKE_OP)],
    &[futex_command(libc::FUTEX_WAIT_BITSET)],
    &[futex_command(libc::FUTEX_WAKE_BITSET)],
];

/// This command, with any flags.
const fn futex_command(command: libc::c_int) -> Condition {
    let flags = bits(libc::FUTEX_PRIVATE_FLAG | libc::FUTEX_CLOCK_REALTIME);
    number(1).bits(!flags & 0xffff_ffff, bits(command))
}

/// Segment registers, shadow stacks, and the states of the processor that KVM gives to a guest.
const ARCH_PRCTL: Alternatives = &[
    // ARCH_SET_GS, ARCH_SET_FS, ARCH_GET_FS, ARCH_GET_GS
    &[number(0).at_least(0x1001), number(0).at_most(0x1004)],
    // ARCH_GET_XCOMP_SUPP, ARCH_{GET,REQ}_XCOMP_PERM, ARCH_{GET,REQ}_XCOMP_GUEST_PERM
    &[number(0).at_least(0x1021), number(0).at_most(0x1025)],
    // ARCH_CET_STATUS
    &[number(0).is(0x3001)],
    // ARCH_SHSTK_ENABLE to ARCH_SHSTK_STATUS
    &[number(0).at_least(0x5001), number(0).at_most(0x5005)],
];

/// Returns the address that the kernel clears when a thread exits.
const PR_GET_TID_ADDRESS: libc::c_int = 40;

/// Names, the accuracy of timers, broken memory, and QEMU's own filter. Not the death signal, not whether others may
/// trace this process, not the sharing of equal pages.
const PRCTL: Alternatives = &[
    // The owner lets each thread make this call, to save the process as an image.
    &[number(0).is(bits(PR_GET_TID_ADDRESS))],
    &[number(0).is(bits(libc::PR_SET_NAME))],
    &[number(0).is(bits(libc::PR_GET_NAME))],
    &[number(0).is(bits(libc::PR_SET_VMA))],
    &[number(0).is(bits(libc::PR_SET_TIMERSLACK))],
    &[number(0).is(bits(libc::PR_MCE_KILL))],
    &[number(0).is(bits(libc::PR_GET_SECCOMP))],
    &[number(0).is(bits(libc::PR_SET_SECCOMP))],
    &[number(0).is(bits(libc::PR_SET_NO_NEW_PRIVS))],
    &[number(0).is(bits(libc::PR_GET_NO_NEW_PRIVS))],
];

/// Facts about a socket. Not a descriptor of the process at its other end (`SO_PEERPIDFD`).
const GETSOCKOPT: Alternatives = &[
    &[SOCKET_LEVEL, number(2).is(bits(libc::SO_TYPE))],
    &[SOCKET_LEVEL, number(2).is(bits(libc::SO_ERROR))],
    &[SOCKET_LEVEL, number(2).is(bits(libc::SO_SNDBUF))],
    &[SOCKET_LEVEL, number(2).is(bits(libc::SO_RCVBUF))],
    &[SOCKET_LEVEL, number(2).is(bits(libc::SO_ACCEPTCONN))],
    &[SOCKET_LEVEL, number(2).is(bits(libc::SO_PROTOCOL))],
    &[SOCKET_LEVEL, number(2).is(bits(libc::SO_DOMAIN))],
];

/// Not programs that filter packets (`SO_ATTACH_FILTER`).
const SETSOCKOPT: Alternatives = &[
    &[SOCKET_LEVEL, number(2).is(bits(libc::SO_SNDBUF))],
    &[SOCKET_LEVEL, number(2).is(bits(libc::SO_RCVBUF))],
    &[SOCKET_LEVEL, number(2).is(bits(libc::SO_ZEROCOPY))],
];

const SOCKET_LEVEL: Condition = number(1).is(bits(libc::SOL_SOCKET));

/// A constant of C as the bits that the kernel sees.
const fn bits(value: libc::c_int) -> u64 {
    value.cast_unsigned() as u64
}
