//! Makes a usable system out of a kernel and the host's directories.

use std::ffi::CString;
use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use rustix::io::Errno;
use rustix::mount::{MountFlags, mount, mount_bind, mount_move};
use rustix::process::{chdir, chroot};

/// Where the host's root directory is mounted, read-only, before and after the change of the root.
pub(crate) const HOST: &str = "/mnt";

const ROOT: &str = "/newroot";
const ROOT_MODULES: &str = "/modules";

/// Modules depend on others. In this many rounds, each has been loaded after those that it needs.
const MODULE_ROUNDS: usize = 4;

/// Directories that every system has, beside those of the host.
const SYSTEM: [&str; 3] = ["/usr", "/etc", "/var"];

/// Loads the kernel modules of the initial file system.
pub(crate) fn load_modules() -> anyhow::Result<()> {
    let order = fs::read_to_string(Path::new(ROOT_MODULES).join("order"))?;
    let mut left: Vec<&str> = order.lines().collect();

    for _ in 0..MODULE_ROUNDS {
        left.retain(|name| !is_loaded(name));
    }
    if !left.is_empty() {
        bail!("these kernel modules cannot be loaded: {}", left.join(", "));
    }

    Ok(())
}

fn is_loaded(name: &str) -> bool {
    let Ok(file) = File::open(Path::new(ROOT_MODULES).join(name)) else {
        return false;
    };
    let result = rustix::system::finit_module(file, c"", 0);

    matches!(result, Ok(()) | Err(Errno::EXIST))
}

/// Mounts the host's root directory, as the emulator shares it.
pub(crate) fn mount_host() -> anyhow::Result<()> {
    let options = c"trans=virtio,version=9p2000.L,msize=524288,cache=loose";

    mount("host", HOST, "9p", MountFlags::RDONLY, options).context("the host's files")
}

/// Builds the root file system, with directories of the host that are read-only and others whose changes stay in memory,
/// and changes to it.
///
/// It is a file system of its own: the first one of the kernel cannot be left by `pivot_root`, so no program could
/// change its root in a mount namespace.
pub(crate) fn enter_root(shared: &[PathBuf], copied: &[PathBuf]) -> anyhow::Result<()> {
    mount_new("tmpfs", ROOT, c"mode=755,size=75%")?;
    for path in SYSTEM.iter().map(Path::new) {
        share(path)?;
    }
    for name in ["bin", "sbin", "lib", "lib64"] {
        symlink(format!("usr/{name}"), format!("{ROOT}/{name}"))?;
    }

    for path in shared {
        share(path)?;
    }
    for (number, path) in copied.iter().enumerate() {
        copy(path, number)?;
    }

    mount_system()?;
    chdir(ROOT)?;
    mount_move(".", "/")?;
    chroot(".")?;
    chdir("/")?;
    Ok(())
}

/// The path in the new root.
fn within_root(path: &Path) -> PathBuf {
    Path::new(ROOT).join(path.strip_prefix("/").unwrap_or(path))
}

fn on_host(path: &Path) -> PathBuf {
    Path::new(HOST).join(path.strip_prefix("/").unwrap_or(path))
}

/// Shows a directory of the host at the same path.
fn share(path: &Path) -> anyhow::Result<()> {
    let place = within_root(path);
    fs::create_dir_all(&place)?;

    mount_bind(on_host(path), &place).with_context(|| path.display().to_string())
}

/// Shows a directory of the host at the same path; changes stay in memory.
fn copy(path: &Path, number: usize) -> anyhow::Result<()> {
    let place = within_root(path);
    let [upper, work] = ["upper", "work"].map(|name| format!("{ROOT}/run.copies/{number}/{name}"));
    for directory in [Path::new(&upper), Path::new(&work), &place] {
        fs::create_dir_all(directory)?;
    }

    let lower = on_host(path);
    let options = format!(
        "lowerdir={},upperdir={upper},workdir={work}",
        lower.display()
    );
    let options = CString::new(options)?;
    mount(
        "overlay",
        &place,
        "overlay",
        MountFlags::empty(),
        options.as_c_str(),
    )
    .with_context(|| path.display().to_string())
}

/// Mounts what the kernel itself provides, and empty directories for programs.
fn mount_system() -> anyhow::Result<()> {
    let within = |path: &str| format!("{ROOT}/{path}");
    mount_new("proc", &within("proc"), c"")?;
    mount_new("sysfs", &within("sys"), c"")?;
    mount_new("cgroup2", &within("sys/fs/cgroup"), c"")?;
    mount_new("devtmpfs", &within("dev"), c"mode=755")?;
    mount_new("devpts", &within("dev/pts"), c"ptmxmode=666,mode=620")?;
    mount_new("tmpfs", &within("dev/shm"), c"mode=1777")?;
    mount_new("tmpfs", &within("tmp"), c"mode=1777")?;
    mount_new("tmpfs", &within("run"), c"mode=755")?;

    // As distributions let users of the machine do. Tests set other modes.
    let device = within("dev/kvm");
    let mode = fs::Permissions::from_mode(0o666);
    fs::set_permissions(&device, mode).context(device)?;

    // As the first process of a distribution does.
    let delegation = within("sys/fs/cgroup/cgroup.subtree_control");
    fs::write(&delegation, "+memory +pids +cpu").context(delegation)?;

    fs::create_dir_all(within("root"))?;
    Ok(())
}

fn mount_new(kind: &str, place: &str, options: &std::ffi::CStr) -> anyhow::Result<()> {
    // Those in /sys exist already, and cannot be created.
    let _ = fs::create_dir_all(place);

    mount(kind, place, kind, MountFlags::empty(), options).with_context(|| place.to_owned())
}
