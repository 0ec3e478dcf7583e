/// While this lives, this thread uses files with the rights of another user and of none of root's: the
/// kernel takes away what root may do with files, and gives it back after.
#[derive(Debug)]
pub struct FsCredentials {
    before: (u32, u32),
}

impl FsCredentials {
    /// The rights of this user and group. Without effect where this process may not take them.
    #[must_use]
    pub fn user(user: u32, group: u32) -> Self {
        // SAFETY: plain system calls without pointers. The group comes first, while root may still set it.
        let before = unsafe {
            let group = libc::syscall(libc::SYS_setfsgid, group);
            let user = libc::syscall(libc::SYS_setfsuid, user);
            (user, group)
        };
        let id = |id: libc::c_long| u32::try_from(id).unwrap_or(0);
        Self {
            before: (id(before.0), id(before.1)),
        }
    }
}

impl Drop for FsCredentials {
    fn drop(&mut self) {
        let (user, group) = self.before;
        // SAFETY: plain system calls without pointers.
        unsafe {
            libc::syscall(libc::SYS_setfsuid, user);
            libc::syscall(libc::SYS_setfsgid, group);
        }
    }
}
