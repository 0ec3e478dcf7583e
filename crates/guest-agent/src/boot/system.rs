use std::fs;
use std::os::unix::fs::{OpenOptionsExt, chown, symlink};

use rustix::mount::mount_bind;

use super::{BootError, refused};
use crate::freshness::Identity;

/// The guest's name.
pub(super) fn name() -> Result<(), BootError> {
    rustix::system::sethostname(b"fumehood").map_err(refused("set the host name"))
}

/// Turns the loopback interface on. A kernel without network is no reason not to boot: what needs
/// it will say so.
pub(super) fn loopback() {
    if let Err(error) = fumehood_sys::guest::loopback_up() {
        eprintln!("fumehood-agent: the loopback interface stays off: {error}");
    }
}

/// The user's home, which belongs to the user.
pub(super) fn home(path: &str, user: u32) -> Result<(), BootError> {
    fs::create_dir_all(path).map_err(refused(format!("make {path}")))?;
    chown(path, Some(user), Some(user)).map_err(refused(format!("give {path} to its user")))
}

/// The files by which a guest is known, to be renewed by every refresh.
///
/// The kernel keeps one id of its boot for as long as its memory lives, copies included: a file of ours
/// is put over it.
pub(super) fn identity() -> Result<Identity, BootError> {
    let boot_id = "/run/fumehood-boot-id";
    let shown = "/proc/sys/kernel/random/boot_id";
    fs::write(boot_id, format!("{}\n", self::boot_id()?))
        .map_err(refused(format!("write {boot_id}")))?;
    mount_bind(boot_id, shown).map_err(refused(format!("put {boot_id} over {shown}")))?;
    // The D-Bus library's own name for the machine's id, where the image has one.
    let link = "/var/lib/dbus/machine-id";
    if fs::symlink_metadata(link).is_ok_and(|m| m.is_file()) {
        let linked = fs::remove_file(link).and_then(|()| symlink("/etc/machine-id", link));
        linked.map_err(refused(format!("make {link} a link")))?;
    }
    let open = |path: &str, write: bool| {
        let mut options = fs::OpenOptions::new();
        options.read(!write).write(write).create(write);
        let opened = options.mode(0o644).open(path);
        opened.map_err(refused(format!("open {path}")))
    };
    Ok(Identity {
        random: open("/dev/urandom", false)?,
        machine_id: open("/etc/machine-id", true)?,
        boot_id: open(boot_id, true)?,
        hosts: open("/etc/hosts", true)?,
        awaits_refresh: false,
    })
}

/// The kernel's name for this boot.
pub(super) fn boot_id() -> Result<String, BootError> {
    let path = "/proc/sys/kernel/random/boot_id";
    let id = fs::read_to_string(path).map_err(refused(format!("read {path}")))?;
    Ok(id.trim_end().to_string())
}
