use std::io;

use super::exec_path::EXEC_PATH_ADDRESS;

/// An address, a descriptor and a size that no call accepts.
const INVALID: i64 = -1;
/// A process id that no process has.
const NO_PROCESS: i64 = i32::MAX as i64 - 1;
/// The level of the options of all sockets.
const SOCKET: i64 = libc::SOL_SOCKET as i64;
/// The clock of the processor time of process 2 (`~2 << 3 | CPUCLOCK_SCHED`).
const CLOCK_OF_ANOTHER: i64 = (!2 << 3) | 2;

/// A call that QEMU needs, or that only few programs need, with arguments that affect others.
type Attempt = (&'static str, libc::c_long, [i64; 6]);

macro_rules! attempts {
    ($($name:literal: $call:ident($($argument:expr),*);)*) => {
        &[$(($name, libc::$call, pad(&[$($argument as i64),*]))),*]
    };
}

/// Fills unused arguments up with zeros.
const fn pad(arguments: &[i64]) -> [i64; 6] {
    let mut padded = [0; 6];
    let mut at = 0;
    while at < arguments.len() {
        padded[at] = arguments[at];
        at += 1;
    }
    padded
}

/// Each has one more argument that is invalid, so that a kernel that sees the call rejects it without an effect.
const ATTEMPTS: &[Attempt] = attempts! {
    // Life with its owner, and what others may do to this process.
    "prctl PR_SET_PDEATHSIG": SYS_prctl(libc::PR_SET_PDEATHSIG, INVALID);
    "prctl PR_SET_DUMPABLE": SYS_prctl(libc::PR_SET_DUMPABLE, INVALID);
    "prctl PR_SET_PTRACER": SYS_prctl(libc::PR_SET_PTRACER, INVALID - 1);
    "prctl PR_SET_CHILD_SUBREAPER": SYS_prctl(libc::PR_SET_CHILD_SUBREAPER, 0);
    "prctl PR_SET_MM": SYS_prctl(libc::PR_SET_MM, INVALID);
    "prctl PR_SCHED_CORE": SYS_prctl(libc::PR_SCHED_CORE, INVALID);
    "prctl PR_SET_MEMORY_MERGE": SYS_prctl(67, INVALID, INVALID);
    "execve": SYS_execve(INVALID, INVALID, INVALID);
    "execve at the launcher's address": SYS_execve(EXEC_PATH_ADDRESS + 1, INVALID, INVALID);
    "mmap at the launcher's address": SYS_mmap(EXEC_PATH_ADDRESS, 0, 0, libc::MAP_PRIVATE | libc::MAP_FIXED, INVALID);
    "mmap below the launcher's address": SYS_mmap(1 << 16, 0, 0, libc::MAP_PRIVATE | libc::MAP_FIXED, INVALID);
    "mmap MAP_GROWSDOWN": SYS_mmap(0, 0, 0, libc::MAP_PRIVATE | libc::MAP_GROWSDOWN, INVALID);
    "mremap MREMAP_FIXED": SYS_mremap(1, 0, 0, libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED);
    "arch_prctl ARCH_MAP_VDSO_64": SYS_arch_prctl(0x2003, INVALID);
    "clone of a process": SYS_clone(libc::CLONE_SIGHAND | libc::SIGCHLD);
    "clone of a thread in other namespaces": SYS_clone(libc::CLONE_THREAD | libc::CLONE_NEWNET);
    // Signals to others.
    "tgkill of another process": SYS_tgkill(NO_PROCESS, NO_PROCESS, 0);
    "tkill": SYS_tkill(NO_PROCESS, 0);
    "rt_sigqueueinfo": SYS_rt_sigqueueinfo(NO_PROCESS, 0, INVALID);
    "rt_tgsigqueueinfo": SYS_rt_tgsigqueueinfo(NO_PROCESS, NO_PROCESS, 0, INVALID);
    "pidfd_send_signal": SYS_pidfd_send_signal(INVALID, 0, 0, 0);
    "fcntl F_SETOWN": SYS_fcntl(INVALID, libc::F_SETOWN, 0);
    "fcntl F_SETOWN_EX": SYS_fcntl(INVALID, 15, INVALID);
    "fcntl F_SETSIG": SYS_fcntl(INVALID, 10, 9);
    "ioctl FIOSETOWN": SYS_ioctl(INVALID, 0x8901, INVALID);
    "ioctl SIOCSPGRP": SYS_ioctl(INVALID, 0x8902, INVALID);
    "openat O_ASYNC": SYS_openat(INVALID, INVALID, libc::O_ASYNC);
    // Time and limits of others, and its own past its bounds.
    "prlimit64 of another process": SYS_prlimit64(NO_PROCESS, libc::RLIMIT_NOFILE, 0, INVALID);
    "prlimit64 to set a limit": SYS_prlimit64(0, libc::RLIMIT_NOFILE, INVALID, 0);
    "setrlimit": SYS_setrlimit(libc::RLIMIT_NOFILE, INVALID);
    "sched_getaffinity of another process": SYS_sched_getaffinity(NO_PROCESS, 8, INVALID);
    "sched_setaffinity": SYS_sched_setaffinity(0, 8, INVALID);
    "sched_setscheduler": SYS_sched_setscheduler(0, INVALID, INVALID);
    "sched_setparam": SYS_sched_setparam(0, INVALID);
    "sched_setattr": SYS_sched_setattr(0, INVALID, 0);
    "sched_getscheduler": SYS_sched_getscheduler(NO_PROCESS);
    "sched_getparam": SYS_sched_getparam(NO_PROCESS, INVALID);
    "getpriority": SYS_getpriority(INVALID, 0);
    "setpriority": SYS_setpriority(INVALID, 0, 0);
    "ioprio_set": SYS_ioprio_set(INVALID, 0, 0);
    "clock_gettime of another process": SYS_clock_gettime(CLOCK_OF_ANOTHER, INVALID);
    "timer_create on another's clock": SYS_timer_create(CLOCK_OF_ANOTHER, INVALID, INVALID);
    "timerfd_create on another's clock": SYS_timerfd_create(CLOCK_OF_ANOTHER, 0);
    "getpgid": SYS_getpgid(NO_PROCESS);
    "getsid": SYS_getsid(NO_PROCESS);
    "get_robust_list": SYS_get_robust_list(NO_PROCESS, INVALID, INVALID);
    "capget": SYS_capget(INVALID, INVALID);
    // Memory of the host, and memory that is shared with others.
    "mmap MAP_HUGETLB": SYS_mmap(0, 0, 0, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_HUGETLB, INVALID);
    "memfd_create MFD_HUGETLB": SYS_memfd_create(INVALID, libc::MFD_HUGETLB);
    "memfd_secret": SYS_memfd_secret(INVALID);
    "madvise MADV_MERGEABLE": SYS_madvise(0, 0, libc::MADV_MERGEABLE);
    "madvise MADV_HWPOISON": SYS_madvise(0, 0, 100);
    "mlockall": SYS_mlockall(INVALID);
    "mincore": SYS_mincore(1, 0, INVALID);
    "membarrier of all processes": SYS_membarrier(libc::MEMBARRIER_CMD_GLOBAL_EXPEDITED, INVALID);
    "shmget": SYS_shmget(0, 0, 0);
    "msgget": SYS_msgget(INVALID, 0);
    "semget": SYS_semget(INVALID, 0, 0);
    "mq_open": SYS_mq_open(INVALID, 0);
    // Files that others use.
    "open O_CREAT": SYS_open(INVALID, libc::O_CREAT);
    "openat O_CREAT": SYS_openat(INVALID, INVALID, libc::O_CREAT);
    "openat O_TRUNC": SYS_openat(INVALID, INVALID, libc::O_TRUNC);
    "openat O_TMPFILE": SYS_openat(INVALID, INVALID, libc::O_TMPFILE);
    "openat2": SYS_openat2(INVALID, INVALID, INVALID, 0);
    "unlinkat": SYS_unlinkat(INVALID, INVALID, 0);
    "flock": SYS_flock(INVALID, libc::LOCK_EX);
    "fcntl F_SETLEASE": SYS_fcntl(INVALID, 1024, libc::F_RDLCK);
    "fcntl F_NOTIFY": SYS_fcntl(INVALID, 1026, 0);
    "fcntl F_SETPIPE_SZ": SYS_fcntl(INVALID, libc::F_SETPIPE_SZ, 1 << 20);
    "inotify_init1": SYS_inotify_init1(INVALID);
    "fanotify_init": SYS_fanotify_init(INVALID, 0);
    // Sockets and devices.
    "socketpair of Unix streams": SYS_socketpair(libc::AF_UNIX, libc::SOCK_STREAM, 0, INVALID);
    "socketpair of Unix datagrams": SYS_socketpair(libc::AF_UNIX, libc::SOCK_DGRAM, 0, INVALID);
    "socketpair of IPv4": SYS_socketpair(libc::AF_INET, libc::SOCK_STREAM, 0, INVALID);
    "socketpair of TIPC": SYS_socketpair(30, libc::SOCK_STREAM, 0, INVALID);
    "sendto an address": SYS_sendto(INVALID, INVALID, 0, 0, INVALID, 16);
    "sendmmsg": SYS_sendmmsg(INVALID, INVALID, 0, 0);
    "setsockopt SO_ATTACH_FILTER": SYS_setsockopt(INVALID, SOCKET, libc::SO_ATTACH_FILTER, INVALID, 0);
    "setsockopt SO_PASSPIDFD": SYS_setsockopt(INVALID, SOCKET, 76, INVALID, 0);
    "setsockopt of TCP": SYS_setsockopt(INVALID, libc::IPPROTO_TCP, libc::TCP_ULP, INVALID, 0);
    "getsockopt SO_PEERPIDFD": SYS_getsockopt(INVALID, SOCKET, 77, INVALID, INVALID);
    "ioctl TUNSETIFF": SYS_ioctl(INVALID, 0x4004_54ca, INVALID);
    "ioctl TIOCSTI": SYS_ioctl(INVALID, libc::TIOCSTI, INVALID);
    "ioctl TIOCSCTTY": SYS_ioctl(INVALID, libc::TIOCSCTTY, INVALID);
    "ioctl FICLONE": SYS_ioctl(INVALID, libc::FICLONE, INVALID);
    "ioctl FS_IOC_SETFLAGS": SYS_ioctl(INVALID, 0x4008_6602, INVALID);
    "ioctl SIOCGIFCONF": SYS_ioctl(INVALID, libc::SIOCGIFCONF, INVALID);
    "ioctl BLKRRPART": SYS_ioctl(INVALID, 0x125f, INVALID);
    // Parts of the kernel that QEMU does not need.
    "pipe2 O_NOTIFICATION_PIPE": SYS_pipe2(INVALID, libc::O_EXCL);
    "futex FUTEX_LOCK_PI": SYS_futex(INVALID, libc::FUTEX_LOCK_PI);
    "futex FUTEX_CMP_REQUEUE_PI": SYS_futex(INVALID, libc::FUTEX_CMP_REQUEUE_PI);
    "futex_waitv": SYS_futex_waitv(INVALID, 0, INVALID);
    "seccomp SECCOMP_FILTER_FLAG_NEW_LISTENER": SYS_seccomp(libc::SECCOMP_SET_MODE_FILTER, 1 << 3, 0);
    "splice": SYS_splice(INVALID, 0, INVALID, 0, 0, 0);
    "vmsplice": SYS_vmsplice(INVALID, INVALID, 0, 0);
    "copy_file_range": SYS_copy_file_range(INVALID, 0, INVALID, 0, 0, 0);
    "sendfile": SYS_sendfile(INVALID, INVALID, 0, 0);
    "io_setup": SYS_io_setup(0, INVALID);
    "io_uring_enter": SYS_io_uring_enter(INVALID, 0, 0, 0);
};

/// Makes calls with arguments that QEMU must not use, and returns those that reached the kernel's implementation, even
/// if that rejected them.
#[must_use]
pub fn forbidden_arguments_that_reach_kernel() -> Vec<&'static str> {
    let reached = ATTEMPTS
        .iter()
        .filter(|(_, call, arguments)| reaches_kernel(*call, *arguments));
    reached.map(|(name, ..)| *name).collect()
}

fn reaches_kernel(call: libc::c_long, [a, b, c, d, e, f]: [i64; 6]) -> bool {
    // SAFETY: each attempt has an argument that the kernel rejects (an address or a descriptor of -1, a size of 0, a
    // process that does not exist, an unknown option), so no call reads or writes memory of this process. The few that
    // the kernel accepts change an attribute of this process that nothing here depends on.
    let result = unsafe { libc::syscall(call, a, b, c, d, e, f) };
    result != -1 || io::Error::last_os_error().raw_os_error() != Some(libc::ENOSYS)
}
