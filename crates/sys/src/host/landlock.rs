use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset,
    RulesetAttr, RulesetCreatedAttr, Scope,
};

/// The newest Landlock version that the rules below use. An older kernel applies the rules that it supports.
const MAX_ABI: ABI = ABI::V6;

/// A Landlock rule set, ready to restrict a process.
#[derive(Debug)]
pub struct LandlockRuleset(OwnedFd);

impl LandlockRuleset {
    /// Creates rules that allow read and execute below `programs`, read of `files`, and read, write and
    /// ioctl of `devices`; no other file, no TCP, and no signal or abstract socket to processes outside.
    /// Landlock does not restrict connecting to a socket that has a path.
    ///
    /// Paths that do not exist are left out. Returns `None` if the kernel has no Landlock.
    ///
    /// # Errors
    /// A message with the reason why the kernel rejected the rules.
    pub fn new(
        programs: &[&Path],
        files: &[&Path],
        devices: &[&Path],
    ) -> Result<Option<Self>, String> {
        if landlock_abi() == 0 {
            return Ok(None);
        }

        let rejected =
            |e: &dyn std::fmt::Display| format!("Landlock rejected the rules for QEMU: {e}");
        let mut rules = Ruleset::default()
            .set_compatibility(CompatLevel::BestEffort)
            .handle_access(AccessFs::from_all(MAX_ABI))
            .and_then(|r| r.handle_access(AccessNet::from_all(MAX_ABI)))
            .and_then(|r| r.scope(Scope::from_all(MAX_ABI)))
            .and_then(Ruleset::create)
            .map_err(|e| rejected(&e))?;

        let read = AccessFs::ReadFile;
        let allowed = [
            (programs, read | AccessFs::ReadDir | AccessFs::Execute),
            (files, read.into()),
            (devices, read | AccessFs::WriteFile | AccessFs::IoctlDev),
        ];

        for (paths, access) in allowed {
            for path in paths {
                let Ok(fd) = PathFd::new(path) else { continue };
                // A rule for a plain file must not contain rights on directories.
                let access = if path.is_dir() {
                    access
                } else {
                    access & !AccessFs::ReadDir
                };

                rules = rules
                    .add_rule(PathBeneath::new(fd, access))
                    .map_err(|e| rejected(&e))?;
            }
        }

        Ok(Option::<OwnedFd>::from(rules).map(Self))
    }

    /// Restricts this process irreversibly. It must have set `no_new_privs` before.
    ///
    /// # Errors
    /// The error of the operating system.
    pub fn restrict_self(&self) -> io::Result<()> {
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

/// Returns the Landlock version of this kernel; 0 = none.
#[must_use]
pub fn landlock_abi() -> u32 {
    const CREATE_RULESET_VERSION: libc::c_uint = 1;
    // SAFETY: with the version flag the call reads no memory of ours and creates no descriptor.
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
