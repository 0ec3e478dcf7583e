//! Installs Debian packages with mmdebstrap. On a Debian host it uses the host's mirror and its apt's
//! settings.
//!
//! The maintainer scripts of packages run in separate namespaces, without a network: mmdebstrap finds a program
//! under the name `chroot` that sets them up (`programs/isolated-chroot.pl`). Packages are therefore downloaded first,
//! and installed without apt, which would change the root itself.

use std::ffi::OsString;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use super::apt::{self, Mirrors};
use super::program::{Program, missing_programs};
use crate::Error;

/// The program that stands in for `chroot`.
const ISOLATED_CHROOT: &str = include_str!("../../programs/isolated-chroot.pl");

/// The hook that installs packages; `PACKAGES` is their list. `chroot` is [`ISOLATED_CHROOT`]. dpkg needs
/// `--force-depends` for the same reason as in mmdebstrap: it does not order packages by their pre-dependencies.
const INSTALL: &str = "APT_CONFIG=\"$MMDEBSTRAP_APT_CONFIG\" apt-get --yes --download-only install PACKAGES && \
    chroot \"$1\" sh -c 'dpkg --install --force-depends /var/cache/apt/archives/*.deb'";

/// A run of mmdebstrap.
pub(crate) struct Request<'a> {
    /// The task, as it appears in error messages.
    pub(crate) task: &'static str,
    pub(crate) variant: Variant,
    pub(crate) packages: &'a [&'a str],
    pub(crate) suite: &'a str,
    /// Additional options.
    pub(crate) options: &'a [String],
}

/// What mmdebstrap does with packages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Variant {
    /// Installs them, and the essential ones.
    Essential,
    /// Only unpacks them.
    Extract,
}

/// Returns errors for what an installation by this user needs and is missing.
pub(crate) fn missing_prerequisites() -> Vec<Error> {
    let purpose = "required to install the guest's Debian packages";
    let mut missing = missing_programs(&[("mmdebstrap", "mmdebstrap"), ("tar", "tar")], purpose);
    if rustix::process::geteuid().is_root() {
        return missing;
    }

    // The packages' users are subordinate ids of this one.
    let purpose = "required to install packages as an ordinary user";
    missing.extend(missing_programs(
        &[("newuidmap", "uidmap"), ("newgidmap", "uidmap")],
        purpose,
    ));
    let user = User::current();
    for file in ["/etc/subuid", "/etc/subgid"] {
        let text = fs::read_to_string(file).unwrap_or_default();
        if !user.has_ids(&text) {
            missing.push(Error::NoSubordinateIds {
                user: user.name.clone(),
                file,
            });
        }
    }
    missing
}

/// The user who runs this program.
struct User {
    id: String,
    /// Its name, or its id if it has none.
    name: String,
}

impl User {
    fn current() -> Self {
        let id = rustix::process::getuid().as_raw().to_string();
        let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
        let name = users.lines().find_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?;
            (fields.nth(1)? == id).then(|| name.to_owned())
        });
        Self {
            name: name.unwrap_or_else(|| id.clone()),
            id,
        }
    }

    /// Returns whether this text of `/etc/subuid` or `/etc/subgid` gives ids to the user.
    fn has_ids(&self, text: &str) -> bool {
        let mut owners = text.lines().filter_map(|line| line.split(':').next());
        owners.any(|owner| owner == self.name || owner == self.id)
    }
}

/// Creates a tar archive of a tree that contains the packages. Unfinished work is in `work`.
pub(crate) fn run(
    request: &Request<'_>,
    archive: &Path,
    work: &Path,
    timeout: Duration,
    on_line: &mut dyn FnMut(&str),
) -> Result<(), Error> {
    let chroot = install_chroot()?;
    let program = command(request, archive, work, timeout, chroot.path())?;
    program.run(on_line)
}

/// Returns the command. `chroot` is the directory of [`ISOLATED_CHROOT`].
fn command(
    request: &Request<'_>,
    archive: &Path,
    work: &Path,
    timeout: Duration,
    chroot: &Path,
) -> Result<Program, Error> {
    let settings = apt::read_settings()?;

    // The mirrors come last; without any, mmdebstrap uses Debian's own.
    Ok(program(request.task, work, timeout)
        .env("PATH", path_with(chroot))
        .args([
            "--mode=auto",
            "--components=main",
            "--architectures=amd64",
            "--format=tar",
        ])
        .args(package_options(request))
        .args(settings.iter().map(|line| format!("--aptopt={line}")))
        .args(request.options)
        .arg(request.suite)
        .arg(archive)
        .args(Mirrors::from_host().source_lines(request.suite)))
}

/// The command. As root it has a mount namespace, so that nothing stays mounted in its tree if it is killed, and the
/// tree is in `work`, which is then removed. An ordinary user's mmdebstrap runs as another user, which has no access
/// to the store, in separate namespaces.
fn program(task: &'static str, work: &Path, timeout: Duration) -> Program {
    const NAME: &str = "mmdebstrap";
    if rustix::process::geteuid().is_root() && can_unshare() {
        Program::new(task, "unshare", timeout)
            .args(["--mount", "--", NAME])
            .env("TMPDIR", work)
    } else {
        Program::new(task, NAME, timeout)
    }
}

/// Returns whether this process may create mount namespaces; root of many containers may not.
fn can_unshare() -> bool {
    let attempt = std::process::Command::new("unshare")
        .args(["--mount", "true"])
        .stderr(std::process::Stdio::null())
        .status();
    attempt.is_ok_and(|status| status.success())
}

fn package_options(request: &Request<'_>) -> [String; 2] {
    match request.variant {
        Variant::Extract => [
            "--variant=extract".to_owned(),
            format!("--include={}", request.packages.join(",")),
        ],
        Variant::Essential => [
            "--variant=essential".to_owned(),
            format!(
                "--essential-hook={}",
                INSTALL.replace("PACKAGES", &request.packages.join(" "))
            ),
        ],
    }
}

/// Writes [`ISOLATED_CHROOT`] to a directory that the user of an ordinary user's mmdebstrap can read.
fn install_chroot() -> Result<tempfile::TempDir, Error> {
    let directory = tempfile::Builder::new()
        .prefix("fumehood-chroot-")
        .tempdir()
        .map_err(Error::io("create a directory in", std::env::temp_dir()))?;

    let program = directory.path().join("chroot");
    fs::write(&program, ISOLATED_CHROOT).map_err(Error::io("write", &program))?;
    for path in [directory.path(), &program] {
        let executable = Permissions::from_mode(0o755);
        fs::set_permissions(path, executable).map_err(Error::io("make executable", path))?;
    }

    Ok(directory)
}

/// Returns the search path of programs with this directory in front.
fn path_with(directory: &Path) -> OsString {
    let mut path = directory.as_os_str().to_owned();
    if let Some(rest) = std::env::var_os("PATH") {
        path.push(":");
        path.push(rest);
    }
    path
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Output};

    use super::*;

    /// What a maintainer script would look at, with nothing but a shell.
    const SCRIPT: &str = r#"
        echo "process $$ of" /proc/[0-9]*
        while read -r line; do echo "mount $line"; done < /proc/self/mountinfo
        while read -r name rest; do echo "device $name"; done < /proc/self/net/dev
        while read -r name value; do echo "$name $value"; done < /proc/self/status
        echo "files" /* /dev/*
        echo "variable ${HOME} ${FUMEHOOD_TEST_TOKEN}"
        (echo core > /proc/sys/kernel/core_pattern) && echo "wrote a setting of the kernel"
        exit 7
    "#;

    /// A root with a shell.
    fn root() -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for directory in ["proc", "dev", "bin"] {
            fs::create_dir(root.path().join(directory)).unwrap();
        }
        fs::write(root.path().join("dev/null"), "").unwrap();
        fs::copy("/bin/sh", root.path().join("bin/sh")).unwrap();

        let libraries = Command::new("ldd").arg("/bin/sh").output().unwrap();
        let libraries = String::from_utf8(libraries.stdout).unwrap();
        for library in libraries
            .split_whitespace()
            .filter(|word| word.starts_with('/'))
        {
            let to = root.path().join(library.trim_start_matches('/'));
            fs::create_dir_all(to.parent().unwrap()).unwrap();
            fs::copy(library, to).unwrap();
        }
        root
    }

    fn run_script(root: &Path) -> Output {
        let chroot = install_chroot().unwrap();
        let mut command = Command::new("chroot");
        command.env("PATH", path_with(chroot.path()));
        command.env("FUMEHOOD_TEST_TOKEN", "secret");
        command.arg(root).args(["/bin/sh", "-c", SCRIPT]);
        command.output().unwrap()
    }

    #[test]
    fn maintainer_scripts_see_nothing_of_the_host() {
        if !rustix::process::geteuid().is_root() || !can_unshare() {
            println!("skipped: this user may not create namespaces");
            return;
        }

        let root = root();
        let output = run_script(root.path());
        let text = String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.code(), Some(7), "{output:?}");

        let lines = |start: &str| -> Vec<&str> {
            let matching = text.lines().filter_map(|line| line.strip_prefix(start));
            matching.collect()
        };
        assert_eq!(lines("process "), ["1 of /proc/1"], "{text}");
        let points = lines("mount ");
        let points: Vec<_> = points
            .iter()
            .filter_map(|line| line.split(' ').nth(4))
            .collect();
        assert_eq!(points, ["/", "/proc", "/dev/null"], "{text}");
        assert_eq!(lines("device ")[2..], ["lo:"], "{text}");
        assert_eq!(lines("CapBnd: "), ["00000000800400fb"], "{text}");
        assert_eq!(lines("variable "), ["/root "], "{text}");
        assert!(!text.contains("wrote a setting"), "{text}");
        assert!(!lines("files ")[0].contains("/root"), "{text}");
    }

    #[test]
    fn an_ordinary_user_needs_subordinate_ids() {
        let user = User {
            id: "1000".to_owned(),
            name: "ann".to_owned(),
        };
        assert!(user.has_ids("bob:100000:65536\nann:165536:65536\n"));
        assert!(user.has_ids("1000:100000:65536\n"));
        assert!(!user.has_ids("bob:100000:65536\nannie:165536:65536\n"));
    }

    fn request(variant: Variant) -> Request<'static> {
        Request {
            task: "test",
            variant,
            packages: &["a", "b"],
            suite: "trixie",
            options: &[],
        }
    }

    #[test]
    fn packages_are_installed_by_a_hook_or_only_unpacked() {
        let [variant, hook] = package_options(&request(Variant::Essential));
        assert_eq!(variant, "--variant=essential");
        assert!(hook.contains("install a b &&"), "{hook}");
        assert_eq!(
            package_options(&request(Variant::Extract))[1],
            "--include=a,b"
        );
    }

    #[test]
    fn mmdebstrap_finds_the_isolated_chroot() {
        let (place, chroot) = (Path::new("/nonexistent"), Path::new("/isolated"));
        let request = request(Variant::Essential);
        let program = command(&request, place, place, Duration::ZERO, chroot).unwrap();
        let path = program.variable("PATH").unwrap();
        assert!(path.to_string_lossy().starts_with("/isolated:"), "{path:?}");
    }
}
