use std::ffi::{CStr, CString};
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::Mode;
use rustix::mount::{MountFlags, mount, mount_move};

use super::error::{BootError, failed_to};

const NO_PRIVILEGE: MountFlags = MountFlags::NOSUID.union(MountFlags::NODEV);
const NO_EXECUTION: MountFlags = NO_PRIVILEGE.union(MountFlags::NOEXEC);

/// Mounts /dev, /proc and /sys. Programs see only processes of the same user.
pub(super) fn mount_kernel_filesystems() -> Result<(), BootError> {
    mount_on("devtmpfs", "/dev", MountFlags::NOSUID, None)?;
    mount_on("proc", "/proc", NO_EXECUTION, Some(c"hidepid=invisible"))?;
    mount_on("sysfs", "/sys", NO_EXECUTION | MountFlags::RDONLY, None)
}

/// Mounts the new root: the disk, the layer of packages over it if there is one, and a tmpfs over both.
///
/// `memory` is the memory that programs may use, in bytes. The tmpfs gets half of it: its contents outlive the program
/// that wrote them, and others must still be able to run. For the same reason the number of files is limited, each of
/// which costs a kilobyte of the kernel's memory.
pub(super) fn mount_root(memory: u64) -> Result<(), BootError> {
    let disk = MountFlags::RDONLY | NO_PRIVILEGE;
    mount("/dev/vda", "/mnt", "erofs", disk, None).map_err(failed_to("mount /dev/vda as erofs"))?;

    make_dir("/over")?;
    let options = tmpfs_options(memory / 2, memory, 755);
    mount_on("tmpfs", "/over", NO_PRIVILEGE, Some(&options))?;
    make_dir("/over/upper")?;
    make_dir("/over/work")?;

    let layers = if mount_layer()? {
        c"lowerdir=/layer:/mnt,upperdir=/over/upper,workdir=/over/work"
    } else {
        c"lowerdir=/mnt,upperdir=/over/upper,workdir=/over/work"
    };

    mount_on("overlay", "/newroot", NO_PRIVILEGE, Some(layers))?;

    for name in ["/dev", "/proc", "/sys"] {
        let to = ["/newroot", name].concat();
        mount_move(name, to.as_str()).map_err(failed_to(format!("move {name} to the new root")))?;
    }

    // pivot_root does not work on an initramfs; this is what switch_root does instead.
    rustix::process::chdir("/newroot").map_err(failed_to("enter the new root"))?;
    mount_move(".", "/").map_err(failed_to("move the new root to /"))?;
    rustix::process::chroot(".").map_err(failed_to("change the root"))?;

    rustix::process::chdir("/").map_err(failed_to("enter the root"))
}

/// Mounts the second disk if it contains a file system, and returns whether it does. Without a layer the disk is too
/// short to contain a superblock.
fn mount_layer() -> Result<bool, BootError> {
    const MAGIC: [u8; 4] = 0xE0F5_E1E2_u32.to_le_bytes();
    const MAGIC_AT: u64 = 1024;
    let mut magic = [0; MAGIC.len()];
    let read = File::open("/dev/vdb").and_then(|disk| disk.read_exact_at(&mut magic, MAGIC_AT));

    if read.is_err() || magic != MAGIC {
        return Ok(false);
    }

    make_dir("/layer")?;
    let disk = MountFlags::RDONLY | NO_PRIVILEGE;
    let mounted = mount("/dev/vdb", "/layer", "erofs", disk, None);
    mounted.map_err(failed_to("mount the layer on /dev/vdb as erofs"))?;

    Ok(true)
}

/// Memory that programs may use for each file that a tmpfs can hold, in bytes. The kernel needs at most an eighth of it
/// for the files.
const BYTES_PER_FILE: u64 = 8 * 1024;

/// Returns the mount options of a tmpfs of `bytes` bytes, with as many files as are allowed for `memory` bytes.
fn tmpfs_options(bytes: u64, memory: u64, mode: u32) -> CString {
    let files = memory / BYTES_PER_FILE;
    let options = format!("size={bytes},nr_inodes={files},mode={mode}");
    CString::new(options).unwrap_or_default()
}

/// Memory that programs must have when disk and shared memory are full, in bytes: an interpreter can then start and remove
/// files.
const ROOM_BYTES: u64 = 48 * 1024 * 1024;

/// Returns the size of /dev/shm: a quarter of the memory, and an eighth in small guests. The disk takes half. The last
/// quarter is for programs, and for the inodes of a disk full of empty files: some 70 MiB in a VM of 512 MiB.
fn shared_memory_bytes(memory: u64) -> u64 {
    let rest = (memory / 2).saturating_sub(ROOM_BYTES);
    (memory / 4).min(rest).max(memory / 8)
}

/// Mounts and links what else programs expect. `memory` is the memory that they may use, in bytes.
pub(super) fn mount_runtime(memory: u64) -> Result<(), BootError> {
    make_dir("/dev/pts")?;
    let flags = MountFlags::NOSUID | MountFlags::NOEXEC;
    let options = c"gid=5,mode=620,ptmxmode=666";
    mount_on("devpts", "/dev/pts", flags, Some(options))?;

    make_dir("/dev/shm")?;
    let options = tmpfs_options(shared_memory_bytes(memory), memory / 8, 1777);
    mount_on("tmpfs", "/dev/shm", NO_PRIVILEGE, Some(&options))?;
    mount_on("tmpfs", "/run", NO_PRIVILEGE, Some(c"size=10%,mode=755"))?;

    for (name, target) in [
        ("fd", ""),
        ("stdin", "/0"),
        ("stdout", "/1"),
        ("stderr", "/2"),
    ] {
        let link = ["/dev/", name].concat();
        symlink(["/proc/self/fd", target].concat(), &link)
            .map_err(failed_to(format!("make {link}")))?;
    }

    show_power_supplies()?;

    rustix::fs::chmod("/tmp", Mode::from_raw_mode(0o1777))
        .map_err(failed_to("make /tmp writable for all users"))
}

/// Adds the directory of a machine without batteries to /sys/class. The kernel is built without power supplies, and
/// programs expect the directory (`psutil.sensors_battery`).
fn show_power_supplies() -> Result<(), BootError> {
    if Path::new("/sys/class/power_supply").exists() {
        return Ok(());
    }

    make_dir("/run/sys-class")?;
    make_dir("/run/sys-class/power_supply")?;
    let layers = c"lowerdir=/run/sys-class:/sys/class";
    let flags = NO_EXECUTION | MountFlags::RDONLY;

    mount_on("overlay", "/sys/class", flags, Some(layers))
}

/// Mounts the cgroup file system and returns the cgroup in which programs get theirs.
pub(super) fn mount_cgroups() -> Result<PathBuf, BootError> {
    mount_on("cgroup2", "/sys/fs/cgroup", NO_EXECUTION, None)?;
    let controllers = fs::write(
        "/sys/fs/cgroup/cgroup.subtree_control",
        "+memory +pids +cpu",
    );
    controllers.map_err(failed_to("enable the controllers memory, pids and cpu"))?;

    let path = "/sys/fs/cgroup/fumehood";
    make_dir(path)?;

    Ok(path.into())
}

fn mount_on(
    kind: &str,
    target: &str,
    flags: MountFlags,
    options: Option<&CStr>,
) -> Result<(), BootError> {
    mount(kind, target, kind, flags, options)
        .map_err(failed_to(format!("mount {kind} on {target}")))
}

fn make_dir(path: &str) -> Result<(), BootError> {
    match rustix::fs::mkdir(path, Mode::from_raw_mode(0o755)) {
        Ok(()) | Err(rustix::io::Errno::EXIST) => Ok(()),
        Err(error) => Err(failed_to(format!("make the directory {path}"))(error)),
    }
}
