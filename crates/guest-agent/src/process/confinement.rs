use std::ffi::CString;
use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use fumehood_protocol::{EnvVars, ErrorType, GuestPath, WireError};
use rustix::fs::{Mode, OFlags, openat};
use rustix::process::{Resource, getrlimit};

use super::cgroup::Cgroups;

/// Soft and hard limit of open files.
const OPEN_FILES: (u64, u64) = (4096, 65_536);

/// A user that programs run as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) name: String,
    pub(crate) id: u32,
    pub(crate) group: u32,
    pub(crate) home: PathBuf,
}

impl User {
    /// Looks up a user by name or number in `/etc/passwd`.
    ///
    /// # Errors
    /// Returns a message for the operator.
    pub(crate) fn lookup(name: &str) -> Result<Self, String> {
        let passwd = fs::read_to_string("/etc/passwd")
            .map_err(|e| format!("cannot look up the user `{name}` in /etc/passwd: {e}"))?;
        let found = passwd.lines().filter_map(Self::parse);
        let mut found = found.filter(|user| user.name == name || user.id.to_string() == name);
        found
            .next()
            .ok_or_else(|| format!("there is no user `{name}` in /etc/passwd"))
    }

    /// Parses a line of `/etc/passwd`.
    fn parse(line: &str) -> Option<Self> {
        let mut fields = line.split(':');
        let name = fields.next()?.to_string();
        let id = fields.nth(1)?.parse().ok()?;
        let group = fields.next()?.parse().ok()?;
        let home = fields.nth(1)?.into();

        Some(Self {
            name,
            id,
            group,
            home,
        })
    }
}

/// The user, cgroups, limits, working directory and environment of programs.
#[derive(Debug)]
pub(crate) struct Confinement {
    /// User and group id of programs. `None`: those of the agent.
    pub(crate) credentials: Option<(u32, u32)>,
    /// The directory in which each operation gets a cgroup, if there is one.
    pub(crate) cgroups: Option<Cgroups>,
    /// The working directory.
    pub(crate) working_dir: OwnedFd,
    /// Standard input of programs without input.
    pub(crate) dev_null: OwnedFd,
    /// Soft and hard limit of open files.
    pub(crate) open_files: (u64, u64),
    environment: Vec<(&'static str, String)>,
    /// What precedes PATH for programs of the user, and not for those of root: directories that the user can write to.
    user_path: Option<String>,
    /// The variables that the last refresh has added.
    pub(crate) added_environment: EnvVars,
}

impl Confinement {
    /// Creates the confinement of programs that run in `working_dir` with `path` as PATH, as `user` if one is given.
    ///
    /// # Errors
    /// Returns a message for the operator.
    pub(crate) fn new(working_dir: &Path, path: &str, user: Option<&User>) -> Result<Self, String> {
        let open = |path: &Path, flags| {
            rustix::fs::open(path, flags | OFlags::CLOEXEC, Mode::empty())
                .map_err(|e| format!("cannot open {}: {e}", path.display()))
        };

        let own = |variable| std::env::var(variable).unwrap_or_default();
        let (name, home) = match user {
            Some(user) => (user.name.clone(), user.home.display().to_string()),
            None => (own("USER"), own("HOME")),
        };

        let text = |value: &str| value.to_string();
        // Variables that every program has; empty ones are left out later.
        let environment = vec![
            ("PATH", text(path)),
            ("HOME", home),
            ("USER", name.clone()),
            ("LOGNAME", name),
            ("SHELL", text("/bin/bash")),
            ("LANG", text("C.UTF-8")),
            ("TERM", text("dumb")),
        ];

        // A program may raise its limit, but not above that of the agent.
        let hard = getrlimit(Resource::Nofile)
            .maximum
            .unwrap_or(u64::MAX)
            .min(OPEN_FILES.1);

        Ok(Self {
            credentials: user.map(|user| (user.id, user.group)),
            cgroups: None,
            working_dir: open(working_dir, OFlags::PATH | OFlags::DIRECTORY)?,
            dev_null: open(Path::new("/dev/null"), OFlags::RDWR)?,
            open_files: (OPEN_FILES.0.min(hard), hard),
            environment,
            user_path: None,
            added_environment: EnvVars::default(),
        })
    }

    /// Makes programs of the user search these directories before the others.
    pub(crate) fn search_first(&mut self, directories: String) {
        self.user_path = Some(directories);
    }

    /// Makes programs trust the certificate authorities in this file and no others. Each library has its own variable for
    /// that, and some would use a built-in list otherwise.
    pub(crate) fn trust_ca_bundle(&mut self, bundle: &str) {
        const NAMES: [&str; 5] = [
            "SSL_CERT_FILE",
            "CURL_CA_BUNDLE",
            "REQUESTS_CA_BUNDLE",
            "PIP_CERT",
            "NODE_EXTRA_CA_CERTS",
        ];

        let variables = NAMES.map(|name| (name, bundle.to_string()));
        self.environment.extend(variables);
    }

    /// Runs `act` with the file access rights of the user that programs run as.
    pub(crate) fn as_user<T>(&self, act: impl FnOnce() -> T) -> T {
        let Some((user, group)) = self.credentials else {
            return act();
        };
        let _guard = fumehood_sys::guest::FsCredentials::user(user, group);
        act()
    }

    /// Opens a working directory with the rights of the user that programs run as.
    ///
    /// # Errors
    /// `path_error`.
    pub(crate) fn open_working_dir(&self, path: &GuestPath) -> Result<OwnedFd, WireError> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened = self.as_user(|| {
            let directory = openat(&self.working_dir, path.as_str(), flags, Mode::empty())?;
            // Only a user who may enter a directory can look up its `.`.
            openat(&directory, ".", flags, Mode::empty())
        });

        opened.map_err(|error: rustix::io::Errno| {
            let message = format!(
                "cannot enter the working directory {}: {error}",
                path.as_str()
            );
            WireError::new(ErrorType::PathError, message).with_errno(error.raw_os_error())
        })
    }

    /// Returns the environment of a program of the user: the defaults, the variables of the last refresh, and
    /// `requested`; later ones win. A variable with a NUL byte cannot be passed on; the protocol rejects it earlier.
    pub(crate) fn environment(&self, requested: &EnvVars) -> Vec<CString> {
        self.environment_with(requested, self.user_path.as_deref())
    }

    /// Returns the environment of a program that runs as root: without directories of the user in PATH.
    pub(crate) fn root_environment(&self, requested: &EnvVars) -> Vec<CString> {
        self.environment_with(requested, None)
    }

    fn environment_with(&self, requested: &EnvVars, first_path: Option<&str>) -> Vec<CString> {
        let requested = requested.clone().over(&self.added_environment);
        let is_requested = |name: &str| requested.iter().any(|(other, _)| other == name);
        let defaults = self
            .environment
            .iter()
            .filter(|(name, value)| !value.is_empty() && !is_requested(name))
            .map(|(name, value)| match first_path {
                Some(first) if *name == "PATH" => [name, "=", first, ":", value].concat(),
                _ => [name, "=", value].concat(),
            });
        let requested = requested
            .iter()
            .map(|(name, value)| [name.as_str(), "=", value].concat());

        defaults
            .chain(requested)
            .filter_map(|variable| CString::new(variable).ok())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_a_line_of_passwd() {
        let user = User::parse("user:x:1000:1001:A person,,,:/home/user:/bin/bash").unwrap();
        let expected = ("user", 1000, 1001, Path::new("/home/user"));
        assert_eq!(
            (user.name.as_str(), user.id, user.group, user.home.as_path()),
            expected
        );

        assert_eq!(User::parse("broken"), None);
    }

    #[test]
    fn only_the_user_searches_directories_of_packages() {
        let mut confinement = Confinement::new(Path::new("/"), "/bin", None).unwrap();
        confinement.search_first("/home/user/.local/bin".into());
        let path = |environment: Vec<CString>| {
            let mut variables = environment.into_iter().map(|v| v.into_string().unwrap());
            variables.find(|v| v.starts_with("PATH="))
        };

        let none = EnvVars::default();
        let user = path(confinement.environment(&none));
        assert_eq!(user.as_deref(), Some("PATH=/home/user/.local/bin:/bin"));
        let root = path(confinement.root_environment(&none));
        assert_eq!(root.as_deref(), Some("PATH=/bin"));
    }

    #[test]
    fn refresh_variables_override_defaults_and_yield_to_requested() {
        let mut confinement = Confinement::new(Path::new("/"), "/bin", None).unwrap();
        confinement.added_environment = [("LANG", "C"), ("A", "brought"), ("B", "brought")]
            .into_iter()
            .collect();

        let environment = confinement.environment(&[("A", "asked")].into_iter().collect());
        let mut lookup: Vec<_> = environment.iter().map(|v| v.to_str().unwrap()).collect();
        lookup.retain(|v| ["LANG=", "A=", "B="].iter().any(|name| v.starts_with(name)));
        lookup.sort_unstable();
        assert_eq!(lookup, ["A=asked", "B=brought", "LANG=C"]);
    }

    #[test]
    fn requested_variables_win() {
        let confinement = Confinement::new(Path::new("/"), "/bin", None).unwrap();
        let requested = [("LANG", "de_DE.UTF-8"), ("A", "b=c")]
            .into_iter()
            .collect();

        let environment = confinement.environment(&requested);
        let has = |text: &str| {
            environment
                .iter()
                .filter(|v| v.to_bytes() == text.as_bytes())
                .count()
        };

        assert_eq!(
            (
                has("LANG=de_DE.UTF-8"),
                has("LANG=C.UTF-8"),
                has("A=b=c"),
                has("PATH=/bin")
            ),
            (1, 0, 1, 1)
        );
    }
}
