use std::path::{Path, PathBuf};
use std::time::Duration;

use fumehood_image::{ImageName, Store};
use fumehood_protocol::{Language, Limits};

use crate::error::{Error, ErrorKind};
use crate::host::{AcceleratorChoice, RequiredIsolation};

/// The configuration of an engine. The defaults suit one user on one machine.
#[derive(Debug, Clone)]
pub struct Config {
    /// Directory of the images; none = the user's own store.
    pub store: Option<PathBuf>,
    /// The image to run.
    pub image: ImageName,
    /// The accelerator; by default the best one that works.
    pub accelerator: AcceleratorChoice,
    /// Path of QEMU; none = `$FUMEHOOD_QEMU`, else the one in `PATH`.
    pub qemu: Option<PathBuf>,
    /// Path of the program that isolates QEMU; none = `$FUMEHOOD_LAUNCHER`, else `fumehood-launcher` beside this
    /// program, else the one that `fumehood image build` put into the store.
    pub launcher: Option<PathBuf>,
    /// Whether VMs are started on a host that does not support all isolation layers.
    pub require_isolation: RequiredIsolation,
    /// The limits of requests.
    pub limits: Limits,
    /// How long a VM may take to start. Under software emulation on a busy machine, a boot that takes 0.5 s without
    /// other load has been observed to take 10 s.
    pub boot_deadline: Duration,
    /// How long a VM may take to be restored from a saved state before a retry. Measured: 35 ms without other load, a
    /// second if a hundred are restored at the same time on two cores.
    pub restore_deadline: Duration,
    /// How long a request may wait for capacity.
    pub queue_deadline: Duration,
    /// How many requests may wait for capacity at the same time; further ones are rejected at once.
    pub queue_length: usize,
    /// Whether VMs are rejected while this host is short of memory for any reason: less than 5 % available, or
    /// processes waited for memory in more than 40 % of the last 10 seconds.
    pub refuse_under_pressure: bool,
    /// How long packages may take to be resolved, installed and packed into a layer.
    pub package_deadline: Duration,
    /// Memory of a VM that installs packages, in MiB; limited by the capacity of this host. Half of it is the VM's
    /// disk, which holds the packages twice for a moment; unused pages cost nothing.
    pub builder_memory_mib: u32,
    /// Whether VMs are restored from templates.
    pub templates: TemplateUse,
    /// Whether VMs continue from hot images where these are supported: with software emulation, and if
    /// [`templates`](Self::templates) are used.
    pub hot_images: bool,
    /// The VMs and images to prepare ahead of requests.
    pub pool: Pool,
}

/// How an engine uses templates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum TemplateUse {
    /// VMs are booted.
    Never,
    /// Existing templates and hot images are used: for a program that runs once.
    Use,
    /// Existing templates and hot images are used, and missing ones are built in the background when they are first
    /// requested.
    #[default]
    UseAndBuild,
}

/// What an engine prepares ahead of requests for VMs with [`memory_mib`](Self::memory_mib) of memory: with KVM hot VMs, each
/// for one use; without it the templates and the hot images of the languages, from which VMs are ready as fast.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pool {
    /// Number of VMs of each language that can start at once without delay; 0 prepares nothing. With KVM, so many VMs wait,
    /// restored and after a primer, and take some 50 MiB each. Without it, no VM waits, and the number has no limit.
    pub warm_vms: usize,
    /// The languages.
    pub languages: Vec<Language>,
    /// Memory of the guests, in MiB.
    pub memory_mib: u32,
}

impl Default for Pool {
    /// Prepares nothing.
    fn default() -> Self {
        Self {
            warm_vms: 0,
            languages: Language::ALL.to_vec(),
            memory_mib: DEFAULT_MEMORY_MIB,
        }
    }
}

impl Pool {
    /// Returns whether anything is to be prepared.
    pub(crate) fn is_enabled(&self) -> bool {
        self.warm_vms > 0 && !self.languages.is_empty()
    }
}

/// Default memory of a guest, in MiB. Unused pages cost nothing.
pub(crate) const DEFAULT_MEMORY_MIB: u32 = 512;

/// Maximum of the timeout that an operator can allow, in seconds: a year.
const MAX_TIMEOUT_S: u64 = 365 * 24 * 60 * 60;

impl Config {
    /// Validates the configuration.
    ///
    /// # Errors
    /// Returns [`ErrorKind::Invalid`] with the limit and its range.
    pub(crate) fn check(&self) -> Result<(), Error> {
        // The engine relies on these minimums; lower limits would break every connection.
        let defaults = Limits::default();
        let minimums = [
            ("chunk_bytes", self.limits.chunk_bytes, defaults.chunk_bytes),
            ("input_bytes", self.limits.input_bytes, defaults.input_bytes),
            (
                "replay_bytes",
                self.limits.replay_bytes,
                defaults.replay_bytes,
            ),
        ];

        let too_low = minimums.into_iter().find(|(_, given, min)| given < min);
        if let Some((name, given, min)) = too_low {
            let message = format!("the limit {name} is {given}; the minimum is {min}");
            return Err(Error::new(ErrorKind::Invalid, message));
        }

        let seconds = self.limits.timeout_s;
        if !(1..=MAX_TIMEOUT_S).contains(&seconds) {
            let message =
                format!("the maximum timeout is {seconds} s; 1 to {MAX_TIMEOUT_S} s are allowed");
            return Err(Error::new(ErrorKind::Invalid, message));
        }

        Ok(())
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            store: None,
            image: ImageName::default(),
            accelerator: AcceleratorChoice::Auto,
            qemu: None,
            launcher: None,
            require_isolation: RequiredIsolation::default(),
            limits: Limits::default(),
            boot_deadline: Duration::from_secs(60),
            restore_deadline: Duration::from_secs(10),
            queue_deadline: Duration::from_secs(120),
            queue_length: 1024,
            refuse_under_pressure: false,
            package_deadline: Duration::from_secs(900),
            builder_memory_mib: 2048,
            templates: TemplateUse::default(),
            hot_images: true,
            pool: Pool::default(),
        }
    }
}

/// The QEMU program that an engine uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Qemu {
    /// Its absolute path.
    pub program: PathBuf,
}

/// The environment variable with the path of QEMU.
const QEMU_VARIABLE: &str = "FUMEHOOD_QEMU";
const QEMU_NAME: &str = "qemu-system-x86_64";

impl Qemu {
    /// Finds QEMU: the one in `config`, else in `$FUMEHOOD_QEMU`, else in `PATH`.
    ///
    /// # Errors
    /// Returns [`ErrorKind::Missing`] with the command that installs it.
    pub fn find(config: &Config) -> Result<Self, Error> {
        let variable = || std::env::var_os(QEMU_VARIABLE).map(PathBuf::from);
        if let Some(program) = config.qemu.clone().or_else(variable) {
            return match program.canonicalize() {
                Ok(program) if is_program(&program) => Ok(Self { program }),
                _ => {
                    let message = format!(
                        "{} is not an executable; set it to a QEMU for x86_64, or unset it",
                        program.display()
                    );
                    Err(Error::new(ErrorKind::Missing, message))
                }
            };
        }

        // Search PATH as a shell does.
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path)
            .map(|directory| directory.join(QEMU_NAME))
            .find(|program| is_program(program))
            .and_then(|program| program.canonicalize().ok())
            .map(|program| Self { program })
            .ok_or_else(|| {
                let message = format!(
                    "{QEMU_NAME} is not in PATH; install it (`apt-get install qemu-system-x86`) \
                     or set {QEMU_VARIABLE}"
                );
                Error::new(ErrorKind::Missing, message)
            })
    }
}

/// Returns whether a path is an executable file.
pub(crate) fn is_program(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;

    path.metadata()
        .is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
}

/// Opens the store of the configuration.
///
/// # Errors
/// As [`image_error`].
pub(crate) fn open_store(config: &Config) -> Result<Store, Error> {
    let root = match &config.store {
        Some(root) => root.clone(),
        None => Store::default_root().map_err(image_error)?,
    };
    Store::open(root).map_err(image_error)
}

/// Converts an error of the store.
pub(crate) fn image_error(error: fumehood_image::Error) -> Error {
    let kind = match &error {
        fumehood_image::Error::Missing { .. } => ErrorKind::Missing,
        fumehood_image::Error::Damaged { .. } => ErrorKind::Damaged,
        _ => ErrorKind::Host,
    };
    Error::new(kind, error.to_string()).caused_by(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_maximum_timeout_at_its_limits_and_past_them() {
        let check = |timeout_s| {
            let limits = Limits {
                timeout_s,
                ..Limits::default()
            };

            Config {
                limits,
                ..Config::default()
            }
            .check()
        };
        assert!(check(1).is_ok() && check(MAX_TIMEOUT_S).is_ok());
        for seconds in [0, MAX_TIMEOUT_S + 1, u64::MAX] {
            assert!(
                check(seconds)
                    .unwrap_err()
                    .to_string()
                    .contains(&seconds.to_string())
            );
        }
    }

    #[test]
    fn a_configured_qemu_that_is_not_executable_is_rejected_with_its_path() {
        let config = Config {
            qemu: Some("/etc/passwd".into()),
            ..Config::default()
        };

        let error = Qemu::find(&config).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Missing);
        assert!(error.to_string().contains("/etc/passwd"), "{error}");
    }
}
