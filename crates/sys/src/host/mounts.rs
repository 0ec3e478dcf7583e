use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// What is taken from a tree of mounts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MountRestriction {
    /// Writing, set-user-id programs, devices.
    WritingAndDevices,
    /// Writing to anything but devices, set-user-id programs, execution.
    WritingAndPrograms,
}

/// The kernel's `struct mount_attr`, which the libc crate does not have for this system; nor these numbers.
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

/// Restricts a mount and all that is mounted below it. Nothing gives back what is taken in a mount
/// namespace whose owner has no capabilities.
///
/// # Errors
/// The operating system's.
pub fn restrict_mounts(tree: BorrowedFd<'_>, without: MountRestriction) -> io::Result<()> {
    let further = match without {
        MountRestriction::WritingAndDevices => NODEV,
        MountRestriction::WritingAndPrograms => NOEXEC,
    };
    let attributes = MountAttributes {
        set: RDONLY | NOSUID | further,
        clear: 0,
        propagation: 0,
        user_namespace: 0,
    };
    // SAFETY: the path is an empty string with its end, and `attributes` is valid for the call, which
    // is told its size.
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
