use std::fs;
use std::os::unix::fs::chown;

use super::{BootError, refused};

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

/// The kernel's name for this boot.
pub(super) fn boot_id() -> Result<String, BootError> {
    let path = "/proc/sys/kernel/random/boot_id";
    let id = fs::read_to_string(path).map_err(refused(format!("read {path}")))?;
    Ok(id.trim_end().to_string())
}
