use std::path::PathBuf;
use std::time::Duration;

use fumehood_image::{ImageName, Store};
use fumehood_protocol::{Language, Limits};

use crate::error::{Error, ErrorKind};
use crate::host::{AcceleratorChoice, RequiredIsolation};

/// How an engine is set up. The defaults suit one user on one machine.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where images are kept; none = the user's own store.
    pub store: Option<PathBuf>,
    /// Which image to run.
    pub image: ImageName,
    /// Which accelerator; by default the best that really works.
    pub accelerator: AcceleratorChoice,
    /// Which QEMU; none = `$FUMEHOOD_QEMU`, else the one in `PATH`.
    pub qemu: Option<PathBuf>,
    /// The program that puts up the walls around QEMU; none = `$FUMEHOOD_LAUNCHER`, else `fumehood-launcher`
    /// beside this program, else the one that `fumehood image build` put into the store.
    pub launcher: Option<PathBuf>,
    /// Whether a VM is started where not all walls can be put up around its QEMU.
    pub require_isolation: RequiredIsolation,
    /// What requests may ask for at most.
    pub limits: Limits,
    /// How long a VM may take to start before it is given up. Under software emulation on a busy
    /// machine a boot that takes 0.5 s alone has been seen to take 10 s.
    pub boot_deadline: Duration,
    /// How long a VM may take to be restored from a saved state before another try. Measured: 35 ms
    /// alone, a second when a hundred are restored at once on two cores.
    pub restore_deadline: Duration,
    /// How long a request may wait for room.
    pub queue_deadline: Duration,
    /// How many requests may wait for room at once; one more is refused at once.
    pub queue_length: usize,
    /// Whether a VM is refused while this host is short of memory, whoever has it: less than 5 % available, or
    /// processes that waited for memory in more than 40 % of the last 10 seconds.
    pub refuse_under_pressure: bool,
    /// How long packages may take to be resolved, installed and made a layer of.
    pub package_deadline: Duration,
    /// Memory of a VM that packages are installed in, in MiB; less where this host has less. Half of it is the VM's
    /// disk, on which the packages lie twice for a moment; pages that are not used cost nothing.
    pub builder_memory_mib: u32,
    /// Whether VMs are restored from warm templates.
    pub templates: TemplateUse,
    /// VMs that are kept ready ahead of requests.
    pub pool: Pool,
}

/// What an engine does with warm templates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum TemplateUse {
    /// VMs are booted.
    Never,
    /// Those that are there are used: for a program that runs once.
    Use,
    /// And one that is missing is built in the background when it is first asked for.
    #[default]
    UseAndBuild,
}

/// VMs that are kept ready ahead of requests, each for one use. All of them have
/// [`memory_mib`](Self::memory_mib); a request for other memory gets none of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pool {
    /// VMs of each language that are restored and have run a primer: the fastest, and some 50 MiB each.
    pub hot: usize,
    /// QEMU processes that wait for the state of any template: some 35 MiB each.
    pub blank: usize,
    /// The languages that templates are kept in memory for.
    pub languages: Vec<Language>,
    /// The guests' memory, in MiB.
    pub memory_mib: u32,
}

impl Default for Pool {
    /// None are kept.
    fn default() -> Self {
        Self {
            hot: 0,
            blank: 0,
            languages: Language::ALL.to_vec(),
            memory_mib: DEFAULT_MEMORY_MIB,
        }
    }
}

impl Pool {
    /// Whether there is anything to keep.
    pub(crate) fn is_wanted(&self) -> bool {
        (self.hot > 0 || self.blank > 0) && !self.languages.is_empty()
    }
}

/// Memory of a guest unless a request says otherwise, in MiB. Pages that are not used cost nothing.
pub(crate) const DEFAULT_MEMORY_MIB: u32 = 512;

/// The longest timeout that an operator can allow, in seconds: a year.
const MOST_TIMEOUT_S: u64 = 365 * 24 * 60 * 60;

impl Config {
    /// Refuses what cannot hold.
    pub(crate) fn check(&self) -> Result<(), Error> {
        // What this side takes for granted; less would break every conversation.
        let defaults = Limits::default();
        let least = [
            ("chunk_bytes", self.limits.chunk_bytes, defaults.chunk_bytes),
            ("input_bytes", self.limits.input_bytes, defaults.input_bytes),
            (
                "replay_bytes",
                self.limits.replay_bytes,
                defaults.replay_bytes,
            ),
        ];
        if let Some((name, given, least)) =
            least.into_iter().find(|(_, given, least)| given < least)
        {
            let message = format!("the limit {name} is {given}; at least {least} is needed");
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        let seconds = self.limits.timeout_s;
        if (1..=MOST_TIMEOUT_S).contains(&seconds) {
            return Ok(());
        }
        let message =
            format!("a maximum timeout of {seconds} s; 1 to {MOST_TIMEOUT_S} are allowed");
        Err(Error::new(ErrorKind::Invalid, message))
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
            pool: Pool::default(),
        }
    }
}

/// The QEMU program that an engine uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Qemu {
    /// Its full path.
    pub program: PathBuf,
}

/// The variable that names another QEMU than the one in `PATH`.
const QEMU_VARIABLE: &str = "FUMEHOOD_QEMU";
const QEMU_NAME: &str = "qemu-system-x86_64";

impl Qemu {
    /// Finds QEMU: the one in `config`, else in `$FUMEHOOD_QEMU`, else in `PATH`.
    ///
    /// # Errors
    /// [`ErrorKind::Missing`], with the command that installs it.
    pub fn find(config: &Config) -> Result<Self, Error> {
        let named = config
            .qemu
            .clone()
            .or_else(|| std::env::var_os(QEMU_VARIABLE).map(PathBuf::from));
        if let Some(program) = named {
            return match program.canonicalize() {
                Ok(program) if is_program(&program) => Ok(Self { program }),
                _ => Err(Error::new(
                    ErrorKind::Missing,
                    format!(
                        "{} is no program; name a QEMU for x86_64 there, or none",
                        program.display()
                    ),
                )),
            };
        }
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path)
            .map(|dir| dir.join(QEMU_NAME))
            .find(|program| is_program(program))
            .and_then(|program| program.canonicalize().ok())
            .map(|program| Self { program })
            .ok_or_else(|| {
                Error::new(
                    ErrorKind::Missing,
                    format!(
                        "{QEMU_NAME} is not in PATH; install it (`apt-get install qemu-system-x86`) \
                         or name one by {QEMU_VARIABLE}"
                    ),
                )
            })
    }
}

pub(crate) fn is_program(path: &std::path::Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    path.metadata()
        .is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
}

pub(crate) fn open_store(config: &Config) -> Result<Store, Error> {
    let root = match &config.store {
        Some(root) => root.clone(),
        None => Store::default_root().map_err(image_error)?,
    };
    Store::open(root).map_err(image_error)
}

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
        assert!(check(1).is_ok() && check(MOST_TIMEOUT_S).is_ok());
        for seconds in [0, MOST_TIMEOUT_S + 1, u64::MAX] {
            assert!(
                check(seconds)
                    .unwrap_err()
                    .to_string()
                    .contains(&seconds.to_string())
            );
        }
    }

    #[test]
    fn a_named_qemu_that_is_none_is_refused_with_its_path() {
        let config = Config {
            qemu: Some("/etc/passwd".into()),
            ..Config::default()
        };
        let error = Qemu::find(&config).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Missing);
        assert!(error.to_string().contains("/etc/passwd"), "{error}");
    }
}
