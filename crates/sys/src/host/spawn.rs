use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};

/// An unprivileged user and group, by id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Credentials {
    /// The user id.
    pub uid: u32,
    /// The group id; all supplementary groups are dropped.
    pub gid: u32,
}

impl Credentials {
    /// The user and group `nobody` of every Linux.
    pub const NOBODY: Self = Self {
        uid: 65534,
        gid: 65534,
    };
}

/// A program to start.
#[derive(Debug)]
pub struct SpawnSpec<'a> {
    /// Its path, and its only argument.
    pub program: &'a CStr,
    /// Its environment: `NAME=value`.
    pub environment: &'a [&'a CStr],
    /// Its standard input, output and error.
    pub streams: [BorrowedFd<'a>; 3],
    /// The other descriptors that it inherits, under the same numbers.
    pub inherit: &'a [&'a OwnedFd],
}

/// Starts a program in the root directory and returns its process id. The caller must wait for it.
///
/// The child is killed when the *thread* that called this ends: call it from a thread that lives as long as
/// the owner of the child.
///
/// The child shares the memory of this process until it executes the program, and the calling thread waits meanwhile: copying
/// the page tables of a server takes longer than the rest of a start.
///
/// # Errors
/// The error of the operating system.
pub fn spawn(spec: &SpawnSpec<'_>) -> io::Result<u32> {
    /// The child makes a few system calls.
    const STACK_BYTES: usize = 64 * 1024;

    let arguments = [spec.program.as_ptr(), std::ptr::null()];
    let variables = spec.environment.iter().map(|variable| variable.as_ptr());
    let environment: Vec<_> = variables.chain([std::ptr::null()]).collect();
    let inherit: Vec<RawFd> = spec.inherit.iter().map(|fd| fd.as_raw_fd()).collect();
    let mut child = Child {
        arguments: arguments.as_ptr(),
        environment: environment.as_ptr(),
        streams: spec.streams.map(|fd| fd.as_raw_fd()),
        inherit: &inherit,
        parent: std::process::id(),
        mask: block_signals()?,
        error: 0,
    };
    let mut stack = vec![0_u128; STACK_BYTES / size_of::<u128>()];

    // SAFETY: the stack is unused, large enough and aligned, and grows down from its end. The child gets a pointer to `child`,
    // which lives until this thread continues, and that is after the child has executed a program or ended. Until then it
    // uses only its stack and what `child` refers to.
    let pid = unsafe {
        let end = stack.as_mut_ptr_range().end.cast();
        let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
        libc::clone(run_child, end, flags, (&raw mut child).cast())
    };
    let started = check(pid);
    restore_signals(&child.mask);
    started?;

    if child.error == 0 {
        return u32::try_from(pid).map_err(|_| io::ErrorKind::InvalidData.into());
    }
    // SAFETY: waits for the child, which has ended; its status is not needed.
    unsafe { libc::waitpid(pid, std::ptr::null_mut(), 0) };
    Err(io::Error::from_raw_os_error(child.error))
}

/// The parameters of the child.
struct Child<'a> {
    /// The path and the other arguments, with a null pointer at the end.
    arguments: *const *const libc::c_char,
    environment: *const *const libc::c_char,
    streams: [RawFd; 3],
    inherit: &'a [RawFd],
    parent: u32,
    /// The signals that the program blocks.
    mask: libc::sigset_t,
    /// The error with which the child has ended.
    error: libc::c_int,
}

/// The child of [`spawn`], which shares all memory with its parent.
extern "C" fn run_child(child: *mut libc::c_void) -> libc::c_int {
    // SAFETY: `spawn` passes this pointer, and its thread does not use the value before this process has ended or executed
    // a program.
    let child = unsafe { &mut *child.cast::<Child<'_>>() };
    let error = child.become_program();
    child.error = error.raw_os_error().unwrap_or(libc::EINVAL);
    127
}

impl Child<'_> {
    /// Makes system calls only: nothing here allocates or locks. Returns only on failure.
    fn become_program(&self) -> io::Error {
        let prepared = self
            .place_streams()
            .and_then(|()| close_fds_except(self.inherit))
            .and_then(|()| die_with_parent(self.parent));
        if let Err(error) = prepared {
            return error;
        }

        restore_signals(&self.mask);
        // SAFETY: all strings end with a null byte and both arrays with a null pointer; the parent keeps them.
        unsafe {
            libc::chdir(c"/".as_ptr());
            libc::execve(*self.arguments, self.arguments, self.environment);
        }
        io::Error::last_os_error()
    }

    fn place_streams(&self) -> io::Result<()> {
        // SAFETY: the descriptors are open, and this process has its own table of them.
        let place = |(number, fd): (libc::c_int, &RawFd)| check(unsafe { libc::dup2(*fd, number) });
        (0..)
            .zip(&self.streams)
            .try_for_each(|stream| place(stream).map(drop))
    }
}

/// Blocks all signals of this thread, so that no handler runs in a child that shares its memory. Returns those that were
/// blocked before.
fn block_signals() -> io::Result<libc::sigset_t> {
    // SAFETY: a set of signals is numbers, and both sets are valid for the calls.
    unsafe {
        let (mut all, mut before) = std::mem::zeroed();
        libc::sigfillset(&raw mut all);
        match libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut before) {
            0 => Ok(before),
            error => Err(io::Error::from_raw_os_error(error)),
        }
    }
}

fn restore_signals(mask: &libc::sigset_t) {
    // SAFETY: the set is valid for the call, which cannot fail with these arguments.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, mask, std::ptr::null_mut()) };
}

/// Returns whether this process may start children as this user: root may, except as root of a user namespace
/// that does not map this user.
#[must_use]
pub fn can_setuid(Credentials { uid, gid }: Credentials) -> bool {
    let is_mapped = |map: &str, id: u32| {
        let text = std::fs::read_to_string(map).unwrap_or_default();
        text.lines().any(|line| {
            let mut numbers = line
                .split_ascii_whitespace()
                .map(|n| n.parse::<u64>().unwrap_or(0));

            let (inside, _, count) = (numbers.next(), numbers.next(), numbers.next());
            inside
                .zip(count)
                .is_some_and(|(inside, count)| (inside..inside + count).contains(&u64::from(id)))
        })
    };

    let groups = std::fs::read_to_string("/proc/self/setgroups").unwrap_or_else(|_| "allow".into());
    rustix::process::geteuid().is_root()
        && groups.trim() == "allow"
        && is_mapped("/proc/self/uid_map", uid)
        && is_mapped("/proc/self/gid_map", gid)
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    match result {
        -1 => Err(io::Error::last_os_error()),
        other => Ok(other),
    }
}

fn prctl(option: libc::c_int, value: libc::c_ulong) -> io::Result<()> {
    // SAFETY: the options used here take one number; the unused arguments must be 0.
    check(unsafe { libc::prctl(option, value, 0, 0, 0) }).map(drop)
}

/// Sets the parent-death signal.
fn die_with_parent(parent: u32) -> io::Result<()> {
    const SIGKILL: libc::c_ulong = libc::SIGKILL as libc::c_ulong;
    prctl(libc::PR_SET_PDEATHSIG, SIGKILL)?;
    // SAFETY: takes nothing, cannot fail.
    let current = unsafe { libc::getppid() };

    // If the parent died before the signal was set, the kernel would never kill this child.
    if u32::try_from(current) == Ok(parent) {
        Ok(())
    } else {
        Err(io::Error::from_raw_os_error(libc::ESRCH))
    }
}

/// Marks every descriptor above standard error to be closed at exec, except these.
///
/// # Errors
/// The error of the operating system: one of these is not open.
pub fn close_fds_except(inherit: &[RawFd]) -> io::Result<()> {
    const FIRST: libc::c_int = 3;
    // SAFETY: marks descriptors of this process; none is closed before exec.
    let marked = unsafe {
        libc::syscall(
            libc::SYS_close_range,
            FIRST,
            libc::c_uint::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        )
    };
    if marked == -1 {
        // Linux before 5.11: one by one. Our own descriptors are close-on-exec anyway.
        const MAX: libc::c_int = 65_536;
        for fd in FIRST..MAX {
            // SAFETY: F_SETFD takes a number; one that is not open is an error without effect.
            unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) };
        }
    }

    // SAFETY: the descriptors are open; F_SETFD takes a number.
    inherit
        .iter()
        .try_for_each(|&fd| check(unsafe { libc::fcntl(fd, libc::F_SETFD, 0) }).map(drop))
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{PipeReader, Read, pipe};
    use std::os::fd::AsFd;
    use std::time::{Duration, Instant};

    use super::*;

    /// Starts a program with a pipe as its standard output.
    fn start(program: &CStr, inherit: &[&OwnedFd]) -> io::Result<(libc::pid_t, PipeReader)> {
        let null = File::options().read(true).write(true).open("/dev/null")?;
        let (reader, writer) = pipe()?;
        let pid = spawn(&SpawnSpec {
            program,
            environment: &[c"NAME=value"],
            streams: [null.as_fd(), writer.as_fd(), null.as_fd()],
            inherit,
        })?;
        Ok((pid.cast_signed(), reader))
    }

    fn wait(pid: libc::pid_t, options: libc::c_int) -> libc::pid_t {
        // SAFETY: waits for a child of this test.
        unsafe { libc::waitpid(pid, std::ptr::null_mut(), options) }
    }

    #[test]
    fn a_program_gets_its_environment_and_streams_and_nothing_else() {
        let (pid, mut output) = start(c"/usr/bin/env", &[]).unwrap();
        let mut text = String::new();
        output.read_to_string(&mut text).unwrap();
        assert_eq!(text, "NAME=value\n");
        assert_eq!(wait(pid, 0), pid);
    }

    #[test]
    fn only_the_named_descriptors_are_inherited() {
        let inherited: OwnedFd = File::open("/dev/null").unwrap().into();
        let other = File::open("/dev/zero").unwrap();
        // It writes until its pipe is full, and then waits.
        let (pid, _output) = start(c"/usr/bin/yes", &[&inherited]).unwrap();

        let target = |fd: RawFd| std::fs::read_link(format!("/proc/{pid}/fd/{fd}"));
        assert_eq!(
            target(inherited.as_raw_fd()).unwrap().to_str(),
            Some("/dev/null")
        );
        assert!(target(other.as_raw_fd()).is_err());
        // SAFETY: ends the child of this test.
        unsafe { libc::kill(pid, libc::SIGKILL) };
        assert_eq!(wait(pid, 0), pid);
    }

    #[test]
    fn a_program_that_does_not_exist_leaves_no_child() {
        let error = start(c"/does/not/exist", &[]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_child_dies_with_the_thread_that_started_it() {
        // It writes until its pipe is full, and then waits.
        let started = std::thread::spawn(|| start(c"/usr/bin/yes", &[]).unwrap());
        let (pid, _output) = started.join().unwrap();

        let deadline = Instant::now() + Duration::from_secs(10);
        while wait(pid, libc::WNOHANG) == 0 {
            assert!(Instant::now() < deadline, "the child outlived its owner");
            std::thread::yield_now();
        }
    }
}
