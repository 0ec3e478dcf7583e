/// Until this is dropped, this thread accesses files with the rights of another user and none of root's: the
/// kernel removes root's capabilities for files, and restores them afterwards.
#[derive(Debug)]
pub struct FsCredentials {
    previous: (u32, u32),
}

impl FsCredentials {
    /// Assumes the file rights of this user and group. Without effect if this process may not assume them.
    #[must_use]
    pub fn user(user: u32, group: u32) -> Self {
        // SAFETY: plain system calls without pointers. The group is set first, while root may still set it.
        let previous = unsafe {
            let group = libc::syscall(libc::SYS_setfsgid, group);
            let user = libc::syscall(libc::SYS_setfsuid, user);
            (user, group)
        };

        let id = |id: libc::c_long| u32::try_from(id).unwrap_or(0);
        Self {
            previous: (id(previous.0), id(previous.1)),
        }
    }
}

impl Drop for FsCredentials {
    fn drop(&mut self) {
        let (user, group) = self.previous;
        // SAFETY: plain system calls without pointers.
        unsafe {
            libc::syscall(libc::SYS_setfsuid, user);
            libc::syscall(libc::SYS_setfsgid, group);
        }
    }
}
