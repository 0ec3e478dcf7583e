use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset,
    RulesetAttr, RulesetCreatedAttr, Scope,
};

/// The newest Landlock version that the rules below use; an older kernel gets the rules it knows.
const ABI_WANTED: ABI = ABI::V6;

/// A Landlock rule set, ready to be put around a process.
#[derive(Debug)]
pub struct LandlockRuleset(OwnedFd);

impl LandlockRuleset {
    /// Read and execute below `programs`, read of `files`, read, write and ioctl of `devices`,
    /// no other file; no TCP; no signal or abstract socket to processes outside. What Landlock
    /// does not hold back: connecting to a socket that has a path.
    ///
    /// Paths that do not exist are left out. `None` where the kernel has no Landlock.
    ///
    /// # Errors
    /// A sentence that says why the kernel refused the rules.
    pub fn new(
        programs: &[&Path],
        files: &[&Path],
        devices: &[&Path],
    ) -> Result<Option<Self>, String> {
        if landlock_abi() == 0 {
            return Ok(None);
        }
        let refused =
            |e: &dyn std::fmt::Display| format!("Landlock refused the rules around QEMU: {e}");
        let mut rules = Ruleset::default()
            .set_compatibility(CompatLevel::BestEffort)
            .handle_access(AccessFs::from_all(ABI_WANTED))
            .and_then(|r| r.handle_access(AccessNet::from_all(ABI_WANTED)))
            .and_then(|r| r.scope(Scope::from_all(ABI_WANTED)))
            .and_then(Ruleset::create)
            .map_err(|e| refused(&e))?;
        let read = AccessFs::ReadFile;
        let allowed = [
            (programs, read | AccessFs::ReadDir | AccessFs::Execute),
            (files, read.into()),
            (devices, read | AccessFs::WriteFile | AccessFs::IoctlDev),
        ];
        for (paths, access) in allowed {
            for path in paths {
                let Ok(fd) = PathFd::new(path) else { continue };
                // A rule for a plain file may not speak of directories.
                let access = if path.is_dir() {
                    access
                } else {
                    access & !AccessFs::ReadDir
                };
                rules = rules
                    .add_rule(PathBeneath::new(fd, access))
                    .map_err(|e| refused(&e))?;
            }
        }
        Ok(Option::<OwnedFd>::from(rules).map(Self))
    }

    /// Puts them around this process, for good. It must have given up new privileges.
    ///
    /// # Errors
    /// The operating system's.
    pub fn put_up(&self) -> io::Result<()> {
        // SAFETY: the descriptor is an open Landlock rule set; the flags are 0.
        let result =
            unsafe { libc::syscall(libc::SYS_landlock_restrict_self, self.0.as_raw_fd(), 0) };
        if result == -1 {
            Err(io::Error::last_os_error())
        } else {
            Ok(())
        }
    }
}

/// The Landlock version of this kernel; 0 = none.
#[must_use]
pub fn landlock_abi() -> u32 {
    const CREATE_RULESET_VERSION: libc::c_uint = 1;
    // SAFETY: with the version flag the call takes no memory of ours and makes no descriptor.
    let version = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            std::ptr::null::<u8>(),
            0_usize,
            CREATE_RULESET_VERSION,
        )
    };
    u32::try_from(version).unwrap_or(0)
}
