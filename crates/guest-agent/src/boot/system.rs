use std::fs;
use std::os::unix::fs::{chown, symlink};
use std::path::Path;

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

/// The files by which a guest is known, to be renewed by every refresh. All of them lie in /run, and are
/// seen in their places: a write there is cheapest.
///
/// The kernel keeps one id of its boot for as long as its memory lives, copies included: that one is
/// hidden, too.
pub(super) fn identity() -> Result<Identity, BootError> {
    // The D-Bus library's own name for the machine's id, where the image has one.
    let link = "/var/lib/dbus/machine-id";
    if fs::symlink_metadata(link).is_ok_and(|m| m.is_file()) {
        let linked = fs::remove_file(link).and_then(|()| symlink("/etc/machine-id", link));
        linked.map_err(refused(format!("make {link} a link")))?;
    }
    let random = fs::File::open("/dev/urandom").map_err(refused("open /dev/urandom"))?;
    Ok(Identity {
        random,
        machine_id: over("machine-id", "/etc/machine-id")?,
        boot_id: over("boot-id", "/proc/sys/kernel/random/boot_id")?,
        hosts: over("hosts", "/etc/hosts")?,
        awaits_refresh: false,
    })
}

/// A file in /run with the contents of another, put over that one.
fn over(name: &str, shown: &str) -> Result<fs::File, BootError> {
    let path = format!("/run/fumehood-{name}");
    let contents = fs::read(shown).unwrap_or_default();
    fs::write(&path, contents).map_err(refused(format!("write {path}")))?;
    if !Path::new(shown).exists() {
        fs::write(shown, "").map_err(refused(format!("make {shown}")))?;
    }
    mount_bind(&path, shown).map_err(refused(format!("put {path} over {shown}")))?;
    let opened = fs::OpenOptions::new().write(true).open(&path);
    opened.map_err(refused(format!("open {path}")))
}

/// The kernel's name for this boot.
pub(super) fn boot_id() -> Result<String, BootError> {
    let path = "/proc/sys/kernel/random/boot_id";
    let id = fs::read_to_string(path).map_err(refused(format!("read {path}")))?;
    Ok(id.trim_end().to_string())
}
