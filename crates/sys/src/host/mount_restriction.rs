use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// The restrictions of a tree of mounts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MountRestriction {
    /// No writing, no set-user-id programs, no devices.
    ReadOnlyNoDevices,
    /// No writing except to devices, no set-user-id programs, no execution.
    ReadOnlyNoExecution,
}

/// The kernel's `struct mount_attr`. The libc crate defines neither it nor these numbers for this system.
#[repr(C)]
struct MountAttributes {
    set: u64,
    clear: u64,
    propagation: u64,
    user_namespace: u64,
}

const RDONLY: u64 = 0x1;
const NOSUID: u64 = 0x2;
const NODEV: u64 = 0x4;
const NOEXEC: u64 = 0x8;
const AT_RECURSIVE: libc::c_int = 0x8000;

/// Restricts a mount and all mounts below it. In a mount namespace whose owner has no capabilities, this cannot
/// be undone.
///
/// # Errors
/// The error of the operating system.
pub fn restrict_mounts(tree: BorrowedFd<'_>, restriction: MountRestriction) -> io::Result<()> {
    let specific = match restriction {
        MountRestriction::ReadOnlyNoDevices => NODEV,
        MountRestriction::ReadOnlyNoExecution => NOEXEC,
    };

    let attributes = MountAttributes {
        set: RDONLY | NOSUID | specific,
        clear: 0,
        propagation: 0,
        user_namespace: 0,
    };

    // SAFETY: the path is an empty C string, and `attributes` is valid for the call, which receives
    // its size.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | AT_RECURSIVE,
            &raw const attributes,
            size_of::<MountAttributes>(),
        )
    };
    if result == -1 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}
