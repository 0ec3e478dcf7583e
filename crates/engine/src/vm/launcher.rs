//! The launcher: the program that isolates QEMU before it starts.

use std::fs::Permissions;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use fumehood_image::Store;
use fumehood_qemu::{LaunchConfig, PID_LIMIT, UID_BASE, User};
use fumehood_sys::host::{Credentials, can_setuid};

use crate::config::{Config, Qemu, is_program};
use crate::error::{Error, ErrorKind};
use crate::host::{Accelerator, RequiredIsolation};

/// The name of the launcher's executable.
pub const LAUNCHER_BIN: &str = "fumehood-launcher";

/// The environment variable with the path of the launcher.
const LAUNCHER_VARIABLE: &str = "FUMEHOOD_LAUNCHER";

/// Path below the store's root where `fumehood image build` puts the launcher, for programs that link this library and
/// have none beside their executable.
const PATH_IN_STORE: &str = "bin/fumehood-launcher";

/// Returns how QEMU is started on this host.
///
/// # Errors
/// Returns [`ErrorKind::Missing`] if there is no launcher. Nothing runs without isolation.
pub(crate) fn launch_config(
    config: &Config,
    qemu: &Qemu,
    accelerator: Accelerator,
    store: &Path,
) -> Result<LaunchConfig, Error> {
    let mut devices: Vec<PathBuf> = vec!["/dev/null".into(), "/dev/urandom".into()];
    if accelerator == Accelerator::Kvm {
        devices.push("/dev/kvm".into());
    }

    let (user, user_of_host_devices) = qemu_users(accelerator);
    Ok(LaunchConfig {
        launcher: find_launcher(config, store)?,
        program: qemu.program.clone(),
        devices,
        user,
        user_of_host_devices,
        require_all_layers: config.require_isolation == RequiredIsolation::Full,
    })
}

/// Finds the launcher: the one in `config`, in `$FUMEHOOD_LAUNCHER`, beside this program, or in the store.
fn find_launcher(config: &Config, store: &Path) -> Result<PathBuf, Error> {
    let variable = || std::env::var_os(LAUNCHER_VARIABLE).map(PathBuf::from);
    if let Some(configured) = config.launcher.clone().or_else(variable) {
        let missing = || missing(&format!("{} is not an executable", configured.display()));
        return configured
            .canonicalize()
            .ok()
            .filter(|path| is_program(path))
            .ok_or_else(missing);
    }

    // An installation puts it beside the program.
    let program = std::env::current_exe().ok();
    let beside = program.map(|program| program.with_file_name(LAUNCHER_BIN));
    if let Some(beside) = beside.filter(|path| is_program(path)) {
        return Ok(beside);
    }

    // Programs that link this library have it in the store.
    let stored = store.join(PATH_IN_STORE);
    if is_program(&stored) && is_only_ours(&stored) {
        return Ok(stored);
    }

    let what = format!(
        "{LAUNCHER_BIN} is neither beside this program nor, owned by this user, at {}",
        stored.display()
    );

    Err(missing(&what))
}

fn missing(what: &str) -> Error {
    let message = format!(
        "{what}: it isolates QEMU, and nothing runs without isolation; \
         run `fumehood image build` to install it, or set {LAUNCHER_VARIABLE}"
    );
    Error::new(ErrorKind::Missing, message)
}

/// Copies a launcher into the store, where engines find it whose program has none beside its executable. An identical
/// one is not replaced.
///
/// # Errors
/// Returns [`ErrorKind::Missing`] if the launcher cannot be read, and [`ErrorKind::Host`] if it cannot be written.
pub fn install_launcher(store: &Store, launcher: &Path) -> Result<(), Error> {
    let bytes = std::fs::read(launcher);
    let bytes = bytes.map_err(|e| missing(&format!("{}: {e}", launcher.display())))?;
    let stored = store.root().join(PATH_IN_STORE);

    if std::fs::read(&stored).is_ok_and(|existing| existing == bytes) {
        return Ok(());
    }

    let write = || -> std::io::Result<()> {
        let directory = stored.parent().unwrap_or(store.root());
        store
            .create_directory(directory)
            .map_err(std::io::Error::other)?;
        // By rename: the old launcher may be running.
        let new = stored.with_extension(std::process::id().to_string());
        std::fs::write(&new, &bytes)?;
        std::fs::set_permissions(&new, Permissions::from_mode(0o755))?;
        std::fs::rename(&new, &stored)
    };

    write().map_err(|e| Error::new(ErrorKind::Host, format!("{}: {e}", stored.display())))
}

/// Returns whether no other user can have changed a file, which is started with all rights of this user.
fn is_only_ours(path: &Path) -> bool {
    let ours = rustix::process::geteuid().as_raw();
    path.metadata()
        .is_ok_and(|m| (m.uid() == ours || m.uid() == 0) && m.mode() & 0o022 == 0)
}

/// Returns the user that QEMU runs as, and the one if it can use only the host's devices. Root gives each QEMU its own user.
/// With KVM, QEMU keeps the group of `/dev/kvm`. If only root may open the device, the launcher creates a node of it that
/// belongs to QEMU's user; where it cannot, QEMU stays root.
fn qemu_users(accelerator: Accelerator) -> (User, User) {
    let access = match accelerator {
        Accelerator::Tcg => KvmAccess::Everyone,
        Accelerator::Kvm => kvm_access(),
    };

    match access {
        KvmAccess::Everyone => (separate_user(None), separate_user(None)),
        KvmAccess::Group(gid) => (separate_user(Some(gid)), separate_user(Some(gid))),
        KvmAccess::OwnerOnly => (separate_user(None), User::Same),
    }
}

/// A separate user for each QEMU is best, `nobody` is second.
fn separate_user(gid: Option<u32>) -> User {
    let may_become = |uid| {
        let gid = gid.unwrap_or(uid);
        can_setuid(Credentials { uid, gid })
    };

    let last = UID_BASE + PID_LIMIT;
    let nobody = Credentials::NOBODY;
    if may_become(UID_BASE) && may_become(last) {
        User::Own { gid }
    } else if may_become(nobody.uid) {
        let gid = gid.unwrap_or(nobody.gid);
        User::Some {
            uid: nobody.uid,
            gid,
        }
    } else {
        User::Same
    }
}

/// Who may open `/dev/kvm`.
#[derive(Debug, PartialEq, Eq)]
enum KvmAccess {
    Group(u32),
    Everyone,
    OwnerOnly,
}

fn kvm_access() -> KvmAccess {
    std::fs::metadata("/dev/kvm").map_or(KvmAccess::OwnerOnly, |device| {
        access_by_mode(device.mode(), device.gid())
    })
}

/// Users other than the owner, who have no groups but this one, by the mode of the device.
fn access_by_mode(mode: u32, gid: u32) -> KvmAccess {
    const GROUP: u32 = 0o060;
    const OTHERS: u32 = 0o006;
    // QEMU never runs in the group of root.
    if mode & OTHERS == OTHERS {
        KvmAccess::Everyone
    } else if mode & GROUP == GROUP && gid != 0 {
        KvmAccess::Group(gid)
    } else {
        KvmAccess::OwnerOnly
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn qemu_joins_the_group_of_the_device_only_where_it_must() {
        const KVM: u32 = 107;
        assert_eq!(access_by_mode(0o020_666, KVM), KvmAccess::Everyone);
        assert_eq!(access_by_mode(0o020_660, KVM), KvmAccess::Group(KVM));
        assert_eq!(access_by_mode(0o020_600, KVM), KvmAccess::OwnerOnly);
        assert_eq!(access_by_mode(0o020_640, KVM), KvmAccess::OwnerOnly);
        assert_eq!(access_by_mode(0o020_660, 0), KvmAccess::OwnerOnly);
    }
}
