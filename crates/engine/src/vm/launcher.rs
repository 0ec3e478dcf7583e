use std::fs::Permissions;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use fumehood_image::Store;
use fumehood_qemu::{LaunchConfig, PROCESSES, UID_BASE, User};
use fumehood_sys::host::{Credentials, can_setuid};

use crate::config::{Config, Qemu, is_program};
use crate::error::{Error, ErrorKind};
use crate::host::{Accelerator, RequiredIsolation};

/// The name of the program that puts up the walls around QEMU.
pub const LAUNCHER_BIN: &str = "fumehood-launcher";

/// The variable that names one.
const LAUNCHER_VARIABLE: &str = "FUMEHOOD_LAUNCHER";

/// Where `fumehood image build` puts it, below the store's root: programs that link this library have none
/// beside them.
const IN_STORE: &str = "bin/fumehood-launcher";

/// With what QEMU is started here.
///
/// # Errors
/// [`ErrorKind::Missing`]: there is no launcher. Nothing runs without walls.
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
    Ok(LaunchConfig {
        launcher: find_launcher(config, store)?,
        program: qemu.program.clone(),
        devices,
        user: user(accelerator),
        full: config.require_isolation == RequiredIsolation::Full,
    })
}

/// The launcher: the one in `config`, in `$FUMEHOOD_LAUNCHER`, beside this program, or in the store.
fn find_launcher(config: &Config, store: &Path) -> Result<PathBuf, Error> {
    let variable = || std::env::var_os(LAUNCHER_VARIABLE).map(PathBuf::from);
    if let Some(named) = config.launcher.clone().or_else(variable) {
        let missing = || missing(&format!("{} is no program", named.display()));
        return named
            .canonicalize()
            .ok()
            .filter(|path| is_program(path))
            .ok_or_else(missing);
    }
    let beside = std::env::current_exe().ok();
    let beside = beside.map(|here| here.with_file_name(LAUNCHER_BIN));
    if let Some(beside) = beside.filter(|path| is_program(path)) {
        return Ok(beside);
    }
    let stored = store.join(IN_STORE);
    if is_program(&stored) && is_ours_alone(&stored) {
        return Ok(stored);
    }
    let here = format!(
        "{LAUNCHER_BIN} is neither beside this program nor ours at {}",
        stored.display()
    );
    Err(missing(&here))
}

fn missing(what: &str) -> Error {
    let message = format!(
        "{what}: it puts up the walls around QEMU, and nothing runs without them; \
         `fumehood image build` puts it there, or name one by {LAUNCHER_VARIABLE}"
    );
    Error::new(ErrorKind::Missing, message)
}

/// Puts a launcher into the store, where engines find it that have none beside their program. One that is
/// there already stays, if it is the same.
///
/// # Errors
/// [`ErrorKind::Missing`]: the launcher cannot be read; [`ErrorKind::Host`]: it cannot be put there.
pub fn install_launcher(store: &Store, launcher: &Path) -> Result<(), Error> {
    let bytes = std::fs::read(launcher);
    let bytes = bytes.map_err(|e| missing(&format!("{}: {e}", launcher.display())))?;
    let stored = store.root().join(IN_STORE);
    if std::fs::read(&stored).is_ok_and(|there| there == bytes) {
        return Ok(());
    }
    let put = || -> std::io::Result<()> {
        let directory = stored.parent().unwrap_or(store.root());
        std::fs::create_dir_all(directory)?;
        // By rename: the old one may be running.
        let new_refresh = stored.with_extension(std::process::id().to_string());
        std::fs::write(&new_refresh, &bytes)?;
        std::fs::set_permissions(&new_refresh, Permissions::from_mode(0o755))?;
        std::fs::rename(&new_refresh, &stored)
    };
    put().map_err(|e| Error::new(ErrorKind::Host, format!("{}: {e}", stored.display())))
}

/// Nobody else can have changed it: it is started with all of our rights.
fn is_ours_alone(path: &Path) -> bool {
    let ours = rustix::process::geteuid().as_raw();
    path.metadata()
        .is_ok_and(|m| (m.uid() == ours || m.uid() == 0) && m.mode() & 0o022 == 0)
}

/// Whom QEMU becomes. Root gives it a user of its own; with KVM the group of `/dev/kvm` is kept, and root
/// itself where nobody else may open the device.
fn user(accelerator: Accelerator) -> User {
    let gid = match accelerator {
        Accelerator::Tcg => None,
        Accelerator::Kvm => match kvm_group() {
            Some(gid) => gid,
            None => return User::Same,
        },
    };
    let may = |uid| {
        let gid = gid.unwrap_or(uid);
        can_setuid(Credentials { uid, gid })
    };
    let last = UID_BASE + PROCESSES;
    let nobody = Credentials::NOBODY;
    if may(UID_BASE) && may(last) {
        User::Own { gid }
    } else if may(nobody.uid) {
        let gid = gid.unwrap_or(nobody.gid);
        User::Some {
            uid: nobody.uid,
            gid,
        }
    } else {
        User::Same
    }
}

/// The group that QEMU needs to open `/dev/kvm`: `Some(None)`: any; `None`: no user but its owner may.
fn kvm_group() -> Option<Option<u32>> {
    let device = std::fs::metadata("/dev/kvm").ok()?;
    match device.mode() & 0o066 {
        0o060 => Some(Some(device.gid())),
        0o066 | 0o006 => Some(None),
        _ => None,
    }
}
