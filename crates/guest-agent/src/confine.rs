use std::ffi::CString;
use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use fumehood_protocol::EnvVars;
use rustix::fs::{Mode, OFlags};
use rustix::process::{Resource, getrlimit};

use crate::cgroup::Cgroups;

/// Open files that a program gets at first, and the most it may raise that to.
const OPEN_FILES: (u64, u64) = (4096, 65_536);

/// Someone that programs run as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) name: String,
    pub(crate) id: u32,
    pub(crate) group: u32,
    pub(crate) home: PathBuf,
}

impl User {
    /// The user of this name or number in `/etc/passwd`.
    ///
    /// # Errors
    /// A sentence for the operator.
    pub(crate) fn named(name: &str) -> Result<Self, String> {
        let passwd = fs::read_to_string("/etc/passwd")
            .map_err(|e| format!("cannot look up the user `{name}` in /etc/passwd: {e}"))?;
        let found = passwd.lines().filter_map(Self::parse);
        let mut found = found.filter(|user| user.name == name || user.id.to_string() == name);
        found
            .next()
            .ok_or_else(|| format!("there is no user `{name}` in /etc/passwd"))
    }

    /// Reads a line of `/etc/passwd`.
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

/// The walls around every program, and the place it works in.
#[derive(Debug)]
pub(crate) struct Confinement {
    /// User and group to become; none = stay who the agent is.
    pub(crate) identity: Option<(u32, u32)>,
    /// Where each operation gets a cgroup; none = nowhere.
    pub(crate) cgroups: Option<Cgroups>,
    /// The working directory.
    pub(crate) directory: OwnedFd,
    /// What standard input is.
    pub(crate) null: OwnedFd,
    /// Open files, soft and hard limit.
    pub(crate) open_files: (u64, u64),
    environment: Vec<(&'static str, String)>,
    /// What a refresh has added to that.
    pub(crate) brought: EnvVars,
}

impl Confinement {
    /// Programs run in `directory` with `path` as PATH, as `user` where one is given.
    ///
    /// # Errors
    /// A sentence for the operator.
    pub(crate) fn new(directory: &Path, path: &str, user: Option<&User>) -> Result<Self, String> {
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
        let environment = vec![
            ("PATH", text(path)),
            ("HOME", home),
            ("USER", name.clone()),
            ("LOGNAME", name),
            ("SHELL", text("/bin/bash")),
            ("LANG", text("C.UTF-8")),
            ("TERM", text("dumb")),
        ];
        let hard = getrlimit(Resource::Nofile)
            .maximum
            .unwrap_or(u64::MAX)
            .min(OPEN_FILES.1);
        Ok(Self {
            identity: user.map(|user| (user.id, user.group)),
            cgroups: None,
            directory: open(directory, OFlags::PATH | OFlags::DIRECTORY)?,
            null: open(Path::new("/dev/null"), OFlags::RDWR)?,
            open_files: (OPEN_FILES.0.min(hard), hard),
            environment,
            brought: EnvVars::default(),
        })
    }

    /// Has programs trust the certificate authorities in this file, and no other: each library has its own way to
    /// be told, and some bring along a list of their own.
    pub(crate) fn trust(&mut self, bundle: &str) {
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

    /// Does something with files as the user that programs run as would, with that user's rights.
    pub(crate) fn as_user<T>(&self, act: impl FnOnce() -> T) -> T {
        let Some((user, group)) = self.identity else {
            return act();
        };
        let _borrowed = fumehood_sys::guest::FsCredentials::user(user, group);
        act()
    }

    /// The environment of a program: ours, what a refresh has added, what was asked for; the later wins. What
    /// holds a NUL
    /// cannot be passed on; the protocol refuses it before.
    pub(crate) fn environment(&self, asked: &EnvVars) -> Vec<CString> {
        let asked = asked.clone().over(&self.brought);
        let asked_for = |name: &str| asked.iter().any(|(other, _)| other == name);
        let ours = self
            .environment
            .iter()
            .filter(|(name, value)| !value.is_empty() && !asked_for(name));
        let ours = ours.map(|(name, value)| [name, "=", value].concat());
        let theirs = asked
            .iter()
            .map(|(name, value)| [name.as_str(), "=", value].concat());
        ours.chain(theirs)
            .filter_map(|variable| CString::new(variable).ok())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_passwd() {
        let user = User::parse("user:x:1000:1001:A person,,,:/home/user:/bin/bash").unwrap();
        let expected = ("user", 1000, 1001, Path::new("/home/user"));
        assert_eq!(
            (user.name.as_str(), user.id, user.group, user.home.as_path()),
            expected
        );
        assert_eq!(User::parse("broken"), None);
    }

    #[test]
    fn what_a_refresh_brings_comes_between() {
        let mut confinement = Confinement::new(Path::new("/"), "/bin", None).unwrap();
        confinement.brought = [("LANG", "C"), ("A", "brought"), ("B", "brought")]
            .into_iter()
            .collect();
        let environment = confinement.environment(&[("A", "asked")].into_iter().collect());
        let mut named: Vec<_> = environment.iter().map(|v| v.to_str().unwrap()).collect();
        named.retain(|v| ["LANG=", "A=", "B="].iter().any(|name| v.starts_with(name)));
        named.sort_unstable();
        assert_eq!(named, ["A=asked", "B=brought", "LANG=C"]);
    }

    #[test]
    fn what_is_asked_for_wins() {
        let confinement = Confinement::new(Path::new("/"), "/bin", None).unwrap();
        let asked = [("LANG", "de_DE.UTF-8"), ("A", "b=c")]
            .into_iter()
            .collect();
        let environment = confinement.environment(&asked);
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
