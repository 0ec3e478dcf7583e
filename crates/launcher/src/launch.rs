use std::ffi::CString;
use std::fs;
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use fumehood_sys::host::{
    self, CloneResult, ExecPath, LandlockRuleset, clone_sibling, close_fds_except, landlock_abi,
};
use rustix::fs::{Mode, OFlags};
use rustix::process::{Gid, Signal, Uid, getgid, getuid, set_parent_process_death_signal, setsid};

use crate::continuation::PreparedImage;
use crate::launch_spec::{
    Cgroup, ExecuteSpec, IsolationLayer, LaunchSpec, LauncherMessage, Namespaces, Program, User,
};
use crate::owner_socket::OwnerSocket;
use crate::{filter, root, user};

/// The host name that QEMU sees instead of the real one.
const HOST_NAME: &[u8] = b"fumehood";

/// The first Landlock version that also restricts signals and abstract sockets. This matters only without
/// namespaces.
const LANDLOCK_WITH_SCOPES: u32 = 6;

/// Receives a launch request on standard input and becomes the requested program. Returns only in the process
/// that cloned it, or on failure.
#[must_use]
pub fn launch() -> ExitCode {
    // The new root must have exactly the modes that are set here, with any umask of the owner.
    rustix::process::umask(Mode::from_raw_mode(0o022));

    let owner = match OwnerSocket::from_stdin() {
        Ok(owner) => owner,
        Err(error) => {
            let message = "fumehood-launcher must be started by fumehood, not by hand";
            let _ = writeln!(std::io::stderr(), "{message}: {error}");
            return ExitCode::FAILURE;
        }
    };

    let failure = match owner.receive_spec() {
        Ok(spec) => {
            let ids = (getuid(), getgid());
            match clone_process(&spec, ids) {
                Ok(CloneResult::Caller) => return ExitCode::SUCCESS,
                Ok(CloneResult::New) => become_program(&spec, ids, &owner),
                Err(failure) => failure,
            }
        }
        Err(error) => Failure::other(error),
    };

    owner.send(&LauncherMessage::Failed {
        layer: failure.layer,
        reason: format!("{:#}", failure.error),
    });
    ExitCode::FAILURE
}

/// The reason why the program was not started.
struct Failure {
    /// The layer that failed, if it is one that a host may lack.
    layer: Option<IsolationLayer>,
    error: anyhow::Error,
}

impl Failure {
    fn of(layer: IsolationLayer) -> impl Fn(anyhow::Error) -> Self {
        move |error| Self {
            layer: Some(layer),
            error,
        }
    }

    fn other(error: anyhow::Error) -> Self {
        Self { layer: None, error }
    }
}

/// The user and the group that this process was started as.
type Ids = (Uid, Gid);

/// Clones the process that becomes the program, in its cgroup and its namespaces. It is a child of this
/// process's parent, so this process does not wait for it.
fn clone_process(spec: &LaunchSpec, ids: Ids) -> Result<CloneResult, Failure> {
    let cgroup = enter_cgroup(&spec.cgroup).map_err(Failure::of(IsolationLayer::Cgroup))?;

    let namespaces = match spec.namespaces {
        Namespaces::None => host::Namespaces::None,
        Namespaces::Privileged => host::Namespaces::Privileged,
        Namespaces::InUserNamespace => host::Namespaces::InUserNamespace,
    };
    let failed = Failure::of(IsolationLayer::Namespaces);
    let result = clone_sibling(namespaces, cgroup.as_ref().map(AsFd::as_fd))
        .context("cannot create namespaces")
        .map_err(&failed)?;

    if result == CloneResult::New && spec.namespaces == Namespaces::InUserNamespace {
        user::map_single_user(ids).map_err(failed)?;
    }
    Ok(result)
}

/// Opens the directory of a unified cgroup, for the clone to start in. Moves this process into legacy ones.
fn enter_cgroup(cgroup: &Cgroup) -> anyhow::Result<Option<std::os::fd::OwnedFd>> {
    match cgroup {
        Cgroup::Same => Ok(None),
        Cgroup::Unified(path) => {
            let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
            let directory = rustix::fs::open(path, flags, Mode::empty())
                .with_context(|| path.display().to_string())?;
            Ok(Some(directory))
        }
        Cgroup::Legacy(directories) => {
            // This process, which has one thread, moves itself: moving another one takes a lock of all processes.
            for directory in directories {
                let tasks = directory.join("tasks");
                fs::write(&tasks, "0").with_context(|| tasks.display().to_string())?;
            }
            Ok(None)
        }
    }
}

/// The parts of a program that must be prepared before the isolation.
enum Prepared {
    /// The filter allows one exec, of this path at its fixed address, and no mapping there.
    Execute(ExecPath, Vec<CString>),
    Continue(Box<PreparedImage>),
}

impl Prepared {
    fn new(program: &Program) -> anyhow::Result<Self> {
        match program {
            Program::Execute(spec) => {
                let (path, args) = exec_arguments(spec)?;
                Ok(Self::Execute(path, args))
            }
            Program::Continue(spec) => Ok(Self::Continue(Box::new(PreparedImage::load(spec)?))),
        }
    }
}

/// Isolates this process and becomes the program. Returns only on failure.
fn become_program(spec: &LaunchSpec, ids: Ids, owner: &OwnerSocket) -> Failure {
    let prepared = match Prepared::new(&spec.program) {
        Ok(prepared) => prepared,
        Err(error) => return Failure::other(error),
    };

    match isolate(spec, owner) {
        Ok(landlock) => owner.send(&LauncherMessage::Ready {
            missing: missing_layers(spec, ids, landlock),
        }),
        Err(failure) => return failure,
    }

    if let Err(error) = owner.wait_for_permission() {
        return Failure::other(anyhow::Error::from(error).context("the owner is gone"));
    }

    // Without an environment, nothing of the owner's (tokens, proxies) is in the memory of the program.
    Failure::other(match prepared {
        Prepared::Execute(path, args) => anyhow::Error::from(path.exec(&args)).context("exec"),
        Prepared::Continue(image) => image.become_process(),
    })
}

/// Returns the path of the program and its arguments, as an exec needs them.
fn exec_arguments(spec: &ExecuteSpec) -> anyhow::Result<(ExecPath, Vec<CString>)> {
    let program = CString::new(spec.path.as_os_str().as_bytes())?;
    let path = ExecPath::new(&program).with_context(|| spec.path.display().to_string())?;

    let mut args = vec![program];
    for arg in &spec.args {
        args.push(CString::new(arg.as_bytes())?);
    }
    Ok((path, args))
}

/// Sets up all layers. Returns the Landlock version of the kernel; 0 = none.
fn isolate(spec: &LaunchSpec, owner: &OwnerSocket) -> Result<u32, Failure> {
    let pid = host_pid().map_err(Failure::other)?;
    owner.send(&LauncherMessage::Cloned { pid });

    if spec.namespaces != Namespaces::None {
        // Only root of the host can create devices.
        let ids = match spec.namespaces {
            Namespaces::Privileged => user::new_ids(spec.user, pid),
            Namespaces::InUserNamespace | Namespaces::None => None,
        };
        let executes = matches!(spec.program, Program::Execute(_));
        root::enter(&spec.files, &spec.devices, executes, ids)
            .and_then(|()| {
                rustix::system::sethostname(HOST_NAME).context("cannot set the host name")
            })
            .map_err(|error| Failure {
                // Without a separate user, the program can use the host's device.
                layer: Some(if error.is::<root::OwnDeviceError>() {
                    IsolationLayer::User
                } else {
                    IsolationLayer::Namespaces
                }),
                error,
            })?;
    }

    // Queried now, since the filter does not allow this call.
    let landlock = landlock_abi();
    drop_privileges(spec, pid).map_err(Failure::other)?;
    Ok(landlock)
}

/// Returns the process id that the host sees. In its own namespace, this process is the first.
fn host_pid() -> anyhow::Result<u32> {
    let name = fs::read_link("/proc/self").context("/proc")?;
    name.to_string_lossy().parse().context("/proc")
}

fn drop_privileges(spec: &LaunchSpec, pid: u32) -> anyhow::Result<()> {
    setsid().context("cannot create a session")?;

    // The program may open the files that it inherits again.
    let inherited = inherited_files(spec);
    let landlock = LandlockRuleset::new(
        &as_paths(&spec.files),
        &as_paths(&inherited),
        &as_paths(&spec.devices),
    )
    .map_err(anyhow::Error::msg)?;

    // A process that continues closes them itself, without an exec.
    if let Program::Execute(execute) = &spec.program {
        close_fds_except(&execute.inherit).context("cannot close descriptors")?;
    }
    user::set_limits(&spec.limits, spec.user)?;
    user::change_user(spec.user, pid)?;
    rustix::thread::set_no_new_privs(true).context("cannot forbid new privileges")?;

    // The kernel clears this signal when the user changes, so it is set afterwards. An owner that died
    // before gives no permission to start.
    set_parent_process_death_signal(Some(Signal::KILL))
        .context("cannot set the parent-death signal")?;

    if let Some(landlock) = &landlock {
        landlock.restrict_self().context("cannot apply Landlock")?;
    }
    match spec.program {
        Program::Execute(_) => filter::apply(has_kvm(spec)),
        // It comes last, when the memory has been replaced.
        Program::Continue(_) => Ok(()),
    }
}

fn has_kvm(spec: &LaunchSpec) -> bool {
    spec.devices
        .iter()
        .any(|device| device == Path::new("/dev/kvm"))
}

/// Returns the inherited regular files, by the paths under which the program may open them again. Landlock does
/// not restrict files in memory.
fn inherited_files(spec: &LaunchSpec) -> Vec<PathBuf> {
    // A process that continues has opened them already.
    let Program::Execute(ExecuteSpec { inherit, .. }) = &spec.program else {
        return Vec::new();
    };
    let paths = inherit
        .iter()
        .map(|fd| PathBuf::from(format!("/proc/self/fd/{fd}")));
    let is_named_file = |path: &PathBuf| {
        let target = fs::read_link(path).unwrap_or_default();
        let in_memory = target.to_string_lossy().starts_with("/memfd:");
        !in_memory && fs::metadata(path).is_ok_and(|m| m.is_file())
    };
    paths.filter(is_named_file).collect()
}

fn as_paths(paths: &[PathBuf]) -> Vec<&Path> {
    paths.iter().map(PathBuf::as_path).collect()
}

/// Returns the layers that were not requested or that this kernel does not have.
fn missing_layers(spec: &LaunchSpec, (uid, _): Ids, landlock: u32) -> Vec<IsolationLayer> {
    let has_namespaces = spec.namespaces != Namespaces::None;
    // Root in a namespace that maps only root still owns the files of the host.
    let in_user_namespace = spec.namespaces == Namespaces::InUserNamespace && !uid.is_root();
    let min_landlock = if has_namespaces {
        1
    } else {
        LANDLOCK_WITH_SCOPES
    };

    let layers = [
        (
            IsolationLayer::User,
            !in_user_namespace && !matches!(spec.user, User::Own { .. }),
        ),
        (IsolationLayer::Namespaces, !has_namespaces),
        (IsolationLayer::Landlock, landlock < min_landlock),
        (IsolationLayer::Cgroup, spec.cgroup == Cgroup::Same),
    ];
    let missing = layers.into_iter().filter(|(_, missing)| *missing);
    missing.map(|(layer, _)| layer).collect()
}
