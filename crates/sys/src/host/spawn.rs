use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};

use super::Walls;

/// An unprivileged user and group, by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Credentials {
    /// The user.
    pub uid: u32,
    /// The group; all supplementary groups are dropped.
    pub gid: u32,
}

impl Credentials {
    /// The user and group `nobody` of every Linux.
    pub const NOBODY: Self = Self {
        uid: 65534,
        gid: 65534,
    };
}

/// Which namespaces of its own a child gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Namespaces {
    /// None: the host allows none.
    None,
    /// Network, IPC and host name, made by root.
    Privileged,
    /// The same, inside a user namespace.
    InUserNamespace,
}

impl Namespaces {
    const fn flags(self) -> libc::c_int {
        const OWN: libc::c_int = libc::CLONE_NEWNET | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS;
        match self {
            Self::None => 0,
            Self::Privileged => OWN,
            Self::InUserNamespace => OWN | libc::CLONE_NEWUSER,
        }
    }
}

/// What is put around a child between fork and exec.
#[derive(Debug)]
pub struct Confinement<'a> {
    /// The user to become; needs root.
    pub credentials: Option<Credentials>,
    /// Namespaces of its own.
    pub namespaces: Namespaces,
    /// File-system and network rules.
    pub walls: Option<&'a Walls>,
    /// Descriptors that the child keeps, under the same numbers. All others are closed.
    pub inherit: &'a [&'a OwnedFd],
}

/// Starts `command` confined, in a session of its own, without new privileges, without core dumps.
///
/// The child is killed when the *thread* that called this ends: call it from one that lives as
/// long as the child's owner. (The kernel forgets a parent-death signal when credentials change, so
/// it is set after that, and the parent is checked once it is set.)
///
/// # Errors
/// The operating system's, from fork, from a wall that could not be put up, or from exec.
pub fn spawn(mut command: Command, confinement: &Confinement<'_>) -> io::Result<Child> {
    let inherit: Vec<RawFd> = confinement
        .inherit
        .iter()
        .map(|fd| fd.as_raw_fd())
        .collect();
    let credentials = confinement.credentials;
    let flags = confinement.namespaces.flags();
    let walls = confinement.walls.map(|walls| walls.0.as_raw_fd());
    let parent = std::process::id();
    let before_exec = move || {
        new_session()?;
        unshare(flags)?;
        no_core_dumps()?;
        if let Some(credentials) = credentials {
            become_user(credentials)?;
        }
        prctl(libc::PR_SET_NO_NEW_PRIVS, 1)?;
        if let Some(walls) = walls {
            restrict_self(walls)?;
        }
        keep_only(&inherit)?;
        die_with(parent)
    };
    // SAFETY: between fork and exec the closure makes system calls only: it does not allocate,
    // lock or unwind, and the descriptors it names are open until `spawn` returns.
    unsafe { command.pre_exec(before_exec) };
    command.spawn()
}

/// Whether this process may start children as this user: root may, but not where it is root of a
/// user namespace that knows no such user.
#[must_use]
pub fn may_become(Credentials { uid, gid }: Credentials) -> bool {
    let knows = |map: &str, id: u32| {
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
        && knows("/proc/self/uid_map", uid)
        && knows("/proc/self/gid_map", gid)
}

/// The namespaces that this process may give its children, found out by a child that tries.
#[must_use]
pub fn usable_namespaces() -> Namespaces {
    let wanted = if rustix::process::geteuid().is_root() {
        Namespaces::Privileged
    } else {
        Namespaces::InUserNamespace
    };
    let flags = wanted.flags();
    let mut command = Command::new("/proc/self/exe");
    // SAFETY: the closure makes system calls only, and never lets the child get to exec.
    unsafe {
        command.pre_exec(move || {
            let failed = unshare(flags).is_err();
            libc::_exit(libc::c_int::from(failed));
        });
    }
    // The child exits before exec: std sees the pipe close as if exec had worked.
    match command.spawn().and_then(|mut child| child.wait()) {
        Ok(status) if status.success() => wanted,
        _ => Namespaces::None,
    }
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result == -1 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

fn prctl(option: libc::c_int, value: libc::c_ulong) -> io::Result<()> {
    // SAFETY: the options used here take one number; the unused arguments must be 0.
    check(unsafe { libc::prctl(option, value, 0, 0, 0) })
}

fn die_with(parent: u32) -> io::Result<()> {
    const SIGKILL: libc::c_ulong = libc::SIGKILL as libc::c_ulong;
    prctl(libc::PR_SET_PDEATHSIG, SIGKILL)?;
    // SAFETY: takes nothing, cannot fail.
    let now = unsafe { libc::getppid() };
    // The parent died before the signal was set: nobody would ever end this child.
    if u32::try_from(now) == Ok(parent) {
        Ok(())
    } else {
        Err(io::Error::from_raw_os_error(libc::ESRCH))
    }
}

fn new_session() -> io::Result<()> {
    // SAFETY: takes nothing.
    check(unsafe { libc::setsid() })
}

fn unshare(flags: libc::c_int) -> io::Result<()> {
    if flags == 0 {
        return Ok(());
    }
    // SAFETY: the child is single-threaded between fork and exec.
    check(unsafe { libc::unshare(flags) })
}

fn no_core_dumps() -> io::Result<()> {
    let none = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: `none` is a valid rlimit for the duration of the call.
    check(unsafe { libc::setrlimit(libc::RLIMIT_CORE, &raw const none) })
}

fn become_user(Credentials { uid, gid }: Credentials) -> io::Result<()> {
    // SAFETY: setgroups takes a count of 0 and no list; the others take numbers. The order matters:
    // groups can be dropped only while root.
    unsafe {
        check(libc::setgroups(0, std::ptr::null()))?;
        check(libc::setresgid(gid, gid, gid))?;
        check(libc::setresuid(uid, uid, uid))
    }
}

fn restrict_self(ruleset: RawFd) -> io::Result<()> {
    // SAFETY: the descriptor is a Landlock rule set that the parent keeps open; the flags are 0.
    let result = unsafe { libc::syscall(libc::SYS_landlock_restrict_self, ruleset, 0) };
    if result == -1 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// Every descriptor above standard error is closed at exec, but for these.
fn keep_only(inherit: &[RawFd]) -> io::Result<()> {
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
        // Linux before 5.11: one by one. Descriptors of ours are close-on-exec anyway.
        const MOST: libc::c_int = 65_536;
        for fd in FIRST..MOST {
            // SAFETY: F_SETFD takes a number; one that is not open is an error without effect.
            unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) };
        }
    }
    // SAFETY: the descriptors are open; F_SETFD takes a number.
    inherit
        .iter()
        .try_for_each(|&fd| check(unsafe { libc::fcntl(fd, libc::F_SETFD, 0) }))
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::process::Stdio;

    use super::*;

    fn run(script: &str, confinement: &Confinement<'_>) -> String {
        let mut command = Command::new("/bin/sh");
        command.arg("-c").arg(script).stdout(Stdio::piped());
        let mut child = spawn(command, confinement).unwrap();
        let mut text = String::new();
        child
            .stdout
            .take()
            .unwrap()
            .read_to_string(&mut text)
            .unwrap();
        child.wait().unwrap();
        text
    }

    fn nothing() -> Confinement<'static> {
        Confinement {
            credentials: None,
            namespaces: Namespaces::None,
            walls: None,
            inherit: &[],
        }
    }

    #[test]
    fn privileges_and_core_dumps_are_off() {
        assert!(
            run("grep NoNewPrivs: /proc/self/status; ulimit -c", &nothing()).ends_with("1\n0\n")
        );
    }

    #[test]
    fn only_the_named_descriptors_are_inherited() {
        let kept: OwnedFd = std::fs::File::open("/dev/null").unwrap().into();
        let other = std::fs::File::open("/dev/zero").unwrap();
        let names = run(
            "ls -l /proc/$$/fd",
            &Confinement {
                inherit: &[&kept],
                ..nothing()
            },
        );
        assert!(names.contains("/dev/null"), "{names}");
        assert!(!names.contains("/dev/zero"), "{names}");
        drop(other);
    }

    #[test]
    fn root_becomes_nobody_without_capabilities() {
        if !rustix::process::geteuid().is_root() {
            println!("not root: nothing to give up");
            return;
        }
        let confinement = Confinement {
            credentials: Some(Credentials::NOBODY),
            ..nothing()
        };
        let text = run(
            "id -u; id -g; grep -E 'Cap(Eff|Prm)' /proc/self/status",
            &confinement,
        );
        assert!(text.starts_with("65534\n65534\n"), "{text}");
        assert_eq!(text.matches("0000000000000000").count(), 2, "{text}");
    }

    #[test]
    fn an_own_network_namespace_has_no_way_out() {
        let namespaces = usable_namespaces();
        if namespaces == Namespaces::None {
            println!("this host allows no namespaces");
            return;
        }
        let devices = run(
            "cat /proc/net/dev",
            &Confinement {
                namespaces,
                ..nothing()
            },
        );
        let names: Vec<&str> = devices
            .lines()
            .filter_map(|line| line.split_once(':'))
            .map(|(name, _)| name.trim())
            .collect();
        assert_eq!(names, ["lo"]);
    }

    #[test]
    fn landlock_hides_what_is_not_named() {
        let paths =
            ["/usr", "/bin", "/lib", "/lib64", "/etc/ld.so.cache"].map(std::path::Path::new);
        let Some(walls) = Walls::new(&paths, &[], &[]).unwrap() else {
            println!("this kernel has no Landlock");
            return;
        };
        let confinement = Confinement {
            walls: Some(&walls),
            ..nothing()
        };
        assert_eq!(
            run(
                "cat /etc/passwd 2>&-; (echo x >/tmp/landlock-test) 2>&-; echo end",
                &confinement
            ),
            "end\n"
        );
    }

    #[test]
    fn a_child_dies_with_the_thread_that_started_it() {
        let pid = std::thread::spawn(|| {
            let mut command = Command::new("/bin/sleep");
            command.arg("600");
            spawn(command, &nothing()).unwrap()
        })
        .join()
        .unwrap();
        let mut child = pid;
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while child.try_wait().unwrap().is_none() {
            assert!(
                std::time::Instant::now() < deadline,
                "the child outlived its owner"
            );
            std::thread::yield_now();
        }
    }
}
