use std::fs;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::Command;

use fumehood_sys::host::{
    self, CloneResult, LandlockRuleset, clone_sibling, close_fds_except, landlock_abi,
};
use rustix::fs::{Mode, OFlags};
use rustix::process::{Gid, Signal, Uid, getgid, getuid, set_parent_process_death_signal, setsid};

use crate::because::Because;
use crate::line::Line;
use crate::order::{Cgroup, IsolationLayer, LaunchSpec, LauncherMessage, Namespaces, User};
use crate::{filter, root, user};

/// The name of a host that QEMU is told instead of this one's.
const HOST_NAME: &[u8] = b"fumehood";

/// The Landlock version from which on signals and abstract sockets are held back as well, which matters
/// where no namespace does.
const LANDLOCK_WHOLE: u32 = 6;

/// Takes the order on standard input and does what it says. Returns only when that fails.
#[must_use]
pub fn launch() -> std::process::ExitCode {
    let line = match Line::of_standard_input() {
        Ok(line) => line,
        Err(why) => {
            eprintln!("fumehood-launcher is started by fumehood, not by hand: {why}");
            return std::process::ExitCode::FAILURE;
        }
    };
    let (wall, what) = match line.order() {
        Ok(order) => {
            let ids = (getuid(), getgid());
            match separate(&order, ids) {
                Ok(CloneResult::Caller) => return std::process::ExitCode::SUCCESS,
                Ok(CloneResult::New) => become_program(&order, ids, &line),
                Err(failure) => failure,
            }
        }
        Err(what) => (None, what),
    };
    line.tell(&LauncherMessage::Failed { wall, what });
    std::process::ExitCode::FAILURE
}

type Failure = (Option<IsolationLayer>, String);

/// Who this process was when it was started.
type Ids = (Uid, Gid);

/// Makes the process that becomes the program, in its cgroup and its namespaces. It is a child of this
/// one's parent: this one has nothing to wait for.
fn separate(order: &LaunchSpec, ids: Ids) -> Result<CloneResult, Failure> {
    let cgroup = |what| (Some(IsolationLayer::Cgroup), what);
    let directory = match &order.cgroup {
        Cgroup::Same => None,
        Cgroup::Unified(path) => {
            let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
            let opened = rustix::fs::open(path, flags, Mode::empty()).because(path.display());
            Some(opened.map_err(cgroup)?)
        }
        Cgroup::Each(directories) => {
            // This process moves itself, with one thread: to move another takes a lock of all processes.
            for directory in directories {
                let tasks = directory.join("tasks");
                let moved = fs::write(&tasks, "0").because(tasks.display());
                moved.map_err(cgroup)?;
            }
            None
        }
    };
    let namespaces = match order.namespaces {
        Namespaces::None => host::Namespaces::None,
        Namespaces::Privileged => host::Namespaces::Privileged,
        Namespaces::InUserNamespace => host::Namespaces::InUserNamespace,
    };
    let refused = |what| (Some(IsolationLayer::Namespaces), what);
    let side = clone_sibling(namespaces, directory.as_ref().map(AsFd::as_fd))
        .because("namespaces of its own")
        .map_err(refused)?;
    if side == CloneResult::New && order.namespaces == Namespaces::InUserNamespace {
        user::alone(ids).map_err(refused)?;
    }
    Ok(side)
}

/// Puts up the walls around this process and becomes the program. Returns only when that fails.
fn become_program(order: &LaunchSpec, ids: Ids, line: &Line) -> Failure {
    match put_up(order, line) {
        Ok(landlock) => line.tell(&LauncherMessage::Ready {
            missing: missing(order, ids, landlock),
        }),
        Err(failure) => return failure,
    }
    if let Err(e) = line.leave() {
        return (None, format!("its owner is gone: {e}"));
    }
    // No environment: nothing of the owner's (tokens, proxies) is in its memory.
    let mut program = Command::new(&order.program);
    let why = program.args(&order.args).env_clear().exec();
    (None, format!("{}: {why}", order.program.display()))
}

/// Returns the version of Landlock, 0 = none.
fn put_up(order: &LaunchSpec, line: &Line) -> Result<u32, Failure> {
    // As the host's `/proc` has it: in its own namespace this process is the first.
    let process = fs::read_link("/proc/self").because("/proc");
    let process = process.and_then(|name| name.to_string_lossy().parse().because("/proc"));
    let process: u32 = process.map_err(|what| (None, what))?;
    line.tell(&LauncherMessage::Begun(process));
    if order.namespaces != Namespaces::None {
        let entered = root::enter(&order.files, &order.devices)
            .and_then(|()| rustix::system::sethostname(HOST_NAME).because("a host name"));
        entered.map_err(|what| (Some(IsolationLayer::Namespaces), what))?;
    }
    // Asked now: no such call exists behind the filter.
    let landlock = landlock_abi();
    give_up(order, process).map_err(|what| (None, what))?;
    Ok(landlock)
}

fn give_up(order: &LaunchSpec, process: u32) -> Result<(), String> {
    setsid().because("a session of its own")?;
    let held = held_files(order);
    let landlock =
        LandlockRuleset::new(&paths(&order.files), &paths(&held), &paths(&order.devices))?;
    close_fds_except(&order.inherit).because("descriptors cannot be closed")?;
    user::bound(&order.limits, order.user)?;
    user::become_user(order.user, process)?;
    rustix::thread::set_no_new_privs(true).because("new privileges cannot be forbidden")?;
    // The kernel forgets it when the user changes, so it is set after that. An owner that died before
    // gives no leave to go on.
    set_parent_process_death_signal(Some(Signal::KILL)).because("death with the owner")?;
    if let Some(landlock) = &landlock {
        landlock.put_up().because("Landlock")?;
    }
    filter::put_up()
}

/// The files that the program holds, by the paths under which it may open them once more. Those in memory
/// are not Landlock's business.
fn held_files(order: &LaunchSpec) -> Vec<std::path::PathBuf> {
    let paths = order
        .inherit
        .iter()
        .map(|fd| format!("/proc/self/fd/{fd}").into());
    let is_named = |path: &std::path::PathBuf| {
        let target = fs::read_link(path).unwrap_or_default();
        let in_memory = target.to_string_lossy().starts_with("/memfd:");
        !in_memory && fs::metadata(path).is_ok_and(|m| m.is_file())
    };
    paths.filter(is_named).collect()
}

fn paths(paths: &[std::path::PathBuf]) -> Vec<&std::path::Path> {
    paths.iter().map(std::path::PathBuf::as_path).collect()
}

/// The walls that do not stand, since they were not ordered or this kernel does not have them.
fn missing(order: &LaunchSpec, (uid, _): Ids, landlock: u32) -> Vec<IsolationLayer> {
    let alone = order.namespaces != Namespaces::None;
    // Root in a namespace that knows root alone is still who owns the host's files.
    let in_user_namespace = order.namespaces == Namespaces::InUserNamespace && !uid.is_root();
    let least = if alone { 1 } else { LANDLOCK_WHOLE };
    let missing = [
        (
            IsolationLayer::User,
            !in_user_namespace && !matches!(order.user, User::Own { .. }),
        ),
        (IsolationLayer::Namespaces, !alone),
        (IsolationLayer::Landlock, landlock < least),
        (IsolationLayer::Cgroup, order.cgroup == Cgroup::Same),
    ];
    let missing = missing.into_iter().filter(|(_, missing)| *missing);
    missing.map(|(wall, _)| wall).collect()
}
