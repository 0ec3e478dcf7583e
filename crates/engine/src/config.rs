use std::path::PathBuf;
use std::time::Duration;

use fumehood_image::ImageName;
use fumehood_protocol::Limits;

use crate::accelerator::AcceleratorChoice;
use crate::error::{Error, ErrorKind};

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
    /// What requests may ask for at most.
    pub limits: Limits,
    /// How long a VM may take to start before it is given up. Under software emulation on a busy
    /// machine a boot that takes 0.5 s alone has been seen to take 10 s.
    pub boot_deadline: Duration,
    /// How long a request may wait for room.
    pub queue_deadline: Duration,
}

/// The longest timeout that an operator can allow, in seconds: a year.
const MOST_TIMEOUT_S: u64 = 365 * 24 * 60 * 60;

impl Config {
    /// Refuses what cannot hold.
    pub(crate) fn check(&self) -> Result<(), Error> {
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
            limits: Limits::default(),
            boot_deadline: Duration::from_secs(60),
            queue_deadline: Duration::from_secs(120),
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

fn is_program(path: &std::path::Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    path.metadata()
        .is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
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
