use std::ffi::{CStr, CString};
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, symlink};
use std::path::PathBuf;

use rustix::fs::Mode;
use rustix::mount::{MountFlags, mount, mount_move};

use super::{BootError, refused};

const HARMLESS: MountFlags = MountFlags::NOSUID
    .union(MountFlags::NODEV)
    .union(MountFlags::NOEXEC);
const NO_PRIVILEGE: MountFlags = MountFlags::NOSUID.union(MountFlags::NODEV);

/// What the kernel shows of itself. Programs see no process but their user's own.
pub(super) fn pseudo() -> Result<(), BootError> {
    attach("devtmpfs", "/dev", MountFlags::NOSUID, None)?;
    attach("proc", "/proc", HARMLESS, Some(c"hidepid=invisible"))?;
    attach("sysfs", "/sys", HARMLESS | MountFlags::RDONLY, None)
}

/// The disk, a layer of packages over it where there is one, a tmpfs over them, and all together as the new
/// root.
///
/// The tmpfs holds half of what memory programs may have (`bytes`): what fills it stays there when its program
/// has ended, and others must be able to run. For the same reason it holds so many files at most, each of which costs
/// a kilobyte of the kernel's memory.
pub(super) fn root(bytes: u64) -> Result<(), BootError> {
    let disk = MountFlags::RDONLY | NO_PRIVILEGE;
    mount("/dev/vda", "/mnt", "erofs", disk, None).map_err(refused("mount /dev/vda as erofs"))?;
    make("/over")?;
    let options = room(bytes / 2, bytes, 755);
    attach("tmpfs", "/over", NO_PRIVILEGE, Some(&options))?;
    make("/over/upper")?;
    make("/over/work")?;
    let layers = match layer()? {
        true => c"lowerdir=/layer:/mnt,upperdir=/over/upper,workdir=/over/work",
        false => c"lowerdir=/mnt,upperdir=/over/upper,workdir=/over/work",
    };
    attach("overlay", "/newroot", NO_PRIVILEGE, Some(layers))?;
    for name in ["/dev", "/proc", "/sys"] {
        let to = ["/newroot", name].concat();
        mount_move(name, to.as_str()).map_err(refused(format!("move {name} to the new root")))?;
    }
    // An initramfs cannot be pivoted away; this is what switch_root does.
    rustix::process::chdir("/newroot").map_err(refused("enter the new root"))?;
    mount_move(".", "/").map_err(refused("move the new root to /"))?;
    rustix::process::chroot(".").map_err(refused("make the new root the root"))?;
    rustix::process::chdir("/").map_err(refused("enter the root"))
}

/// Mounts the second disk, if there is a file system on it: where there is no layer, it is shorter than the
/// place of a superblock.
fn layer() -> Result<bool, BootError> {
    const MAGIC: [u8; 4] = 0xE0F5_E1E2_u32.to_le_bytes();
    const MAGIC_AT: u64 = 1024;
    let mut found = [0; MAGIC.len()];
    let read = File::open("/dev/vdb").and_then(|disk| disk.read_exact_at(&mut found, MAGIC_AT));
    if read.is_err() || found != MAGIC {
        return Ok(false);
    }
    make("/layer")?;
    let disk = MountFlags::RDONLY | NO_PRIVILEGE;
    let mounted = mount("/dev/vdb", "/layer", "erofs", disk, None);
    mounted.map_err(refused("mount the layer on /dev/vdb as erofs"))?;
    Ok(true)
}

/// Memory that programs may have for each file that a tmpfs can hold, in bytes: an eighth of it is the most that
/// the kernel then needs for them.
const BYTES_PER_FILE: u64 = 8 * 1024;

/// Options of a tmpfs of so many bytes, and of the files that go with so much memory.
fn room(bytes: u64, memory: u64, mode: u32) -> CString {
    let files = memory / BYTES_PER_FILE;
    let options = format!("size={bytes},nr_inodes={files},mode={mode}");
    CString::new(options).unwrap_or_default()
}

/// What programs expect besides. `bytes`: the memory that they may have.
pub(super) fn rest(bytes: u64) -> Result<(), BootError> {
    make("/dev/pts")?;
    let terminals = Some(c"gid=5,mode=620,ptmxmode=666");
    attach(
        "devpts",
        "/dev/pts",
        MountFlags::NOSUID | MountFlags::NOEXEC,
        terminals,
    )?;
    make("/dev/shm")?;
    let options = room(bytes / 8, bytes / 8, 1777);
    attach("tmpfs", "/dev/shm", NO_PRIVILEGE, Some(&options))?;
    attach("tmpfs", "/run", NO_PRIVILEGE, Some(c"size=10%,mode=755"))?;
    for (name, target) in [
        ("fd", ""),
        ("stdin", "/0"),
        ("stdout", "/1"),
        ("stderr", "/2"),
    ] {
        let link = ["/dev/", name].concat();
        symlink(["/proc/self/fd", target].concat(), &link)
            .map_err(refused(format!("make {link}")))?;
    }
    rustix::fs::chmod("/tmp", Mode::from_raw_mode(0o1777))
        .map_err(refused("open /tmp to everybody"))
}

/// The cgroup in which programs get theirs.
pub(super) fn cgroups() -> Result<PathBuf, BootError> {
    attach("cgroup2", "/sys/fs/cgroup", HARMLESS, None)?;
    let enable = fs::write(
        "/sys/fs/cgroup/cgroup.subtree_control",
        "+memory +pids +cpu",
    );
    enable.map_err(refused("enable the controllers memory, pids and cpu"))?;
    let path = "/sys/fs/cgroup/fumehood";
    make(path)?;
    Ok(path.into())
}

fn attach(kind: &str, to: &str, flags: MountFlags, data: Option<&CStr>) -> Result<(), BootError> {
    mount(kind, to, kind, flags, data).map_err(refused(format!("mount {kind} on {to}")))
}

fn make(path: &str) -> Result<(), BootError> {
    match rustix::fs::mkdir(path, Mode::from_raw_mode(0o755)) {
        Ok(()) | Err(rustix::io::Errno::EXIST) => Ok(()),
        Err(error) => Err(refused(format!("make the directory {path}"))(error)),
    }
}
