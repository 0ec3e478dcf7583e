//! Locates and fetches the kernel's source.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::Error;
use crate::tools::apt::QUERY_TIMEOUT;
use crate::tools::download::only_file;
use crate::tools::mmdebstrap::{self, Request, Variant};
use crate::tools::program::{Program, find_program};

/// Debian's package of the kernel's source.
pub(crate) const PACKAGE: &str = "linux-source-6.12";
/// The path of the source archive in that package.
const INSTALLED: &str = "usr/src/linux-source-6.12.tar.xz";
/// The deadline of a download of 150 MB.
const DOWNLOAD_TIMEOUT: Duration = Duration::from_secs(30 * 60);

/// An available source of the kernel and its version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Source {
    /// The package's version, or the suite that provides it.
    pub(crate) version: String,
    origin: Origin,
}

/// Where a source comes from. In each case apt checks the signatures.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Origin {
    /// The package is installed on the host.
    Installed,
    /// The host's package sources offer the package.
    AptArchive,
    /// The host is not Debian, or an older release: the source comes from the guest's suite.
    Suite(String),
}

impl Source {
    /// Returns the installed package, else the one that the host's package sources offer, else that of the
    /// guest's suite.
    pub(crate) fn find(suite: &str) -> Result<Self, Error> {
        // The installed package needs no download.
        if let Some(version) =
            installed_version().filter(|_| Path::new("/").join(INSTALLED).exists())
        {
            return Ok(Self {
                version,
                origin: Origin::Installed,
            });
        }

        if let Some(version) = apt_version() {
            return Ok(Self {
                version,
                origin: Origin::AptArchive,
            });
        }

        // Elsewhere mmdebstrap fetches it from Debian's own archive.
        if find_program("mmdebstrap").is_none() {
            let reason = format!("apt offers no `{PACKAGE}`, and mmdebstrap is not installed");
            return Err(Error::NoKernelSource(reason));
        }

        Ok(Self {
            version: format!("of {suite}"),
            origin: Origin::Suite(suite.to_owned()),
        })
    }

    /// Returns errors for what fetching the source needs and is missing.
    pub(super) fn missing_prerequisites(&self) -> Vec<Error> {
        match &self.origin {
            Origin::Installed | Origin::AptArchive => Vec::new(),
            Origin::Suite(_) => mmdebstrap::missing_prerequisites(),
        }
    }

    /// Returns the compressed source. `work` is a directory for downloads.
    pub(crate) fn archive(&self, work: &Path) -> Result<PathBuf, Error> {
        match &self.origin {
            Origin::Installed => Ok(Path::new("/").join(INSTALLED)),
            Origin::AptArchive => download_with_apt(&self.version, work),
            Origin::Suite(suite) => extract_from_suite(suite, work),
        }
    }
}

/// Downloads the package with apt and unpacks it.
fn download_with_apt(version: &str, work: &Path) -> Result<PathBuf, Error> {
    let downloads = work.join("download");
    fs::create_dir_all(&downloads).map_err(Error::io("create", &downloads))?;
    Program::new(
        "downloading the kernel's source",
        "apt-get",
        DOWNLOAD_TIMEOUT,
    )
    .args(["download", "-q"])
    .arg(format!("{PACKAGE}={version}"))
    .current_dir(&downloads)
    .run(&mut |_| {})?;

    // The package contains the source as a compressed archive.
    let package = only_file(&downloads)?;
    let unpacked = work.join("package");
    Program::new(
        "unpacking the kernel's source package",
        "dpkg-deb",
        DOWNLOAD_TIMEOUT,
    )
    .arg("-x")
    .args([&package, &unpacked])
    .run(&mut |_| {})?;

    Ok(unpacked.join(INSTALLED))
}

/// Unpacks the package from the archive of a suite.
fn extract_from_suite(suite: &str, work: &Path) -> Result<PathBuf, Error> {
    let (archive, unpacked) = (work.join("source.tar"), work.join("package"));
    let request = Request {
        task: "fetching the kernel's source",
        variant: Variant::Extract,
        packages: &[PACKAGE],
        suite,
        options: &[],
    };
    mmdebstrap::run(&request, &archive, work, DOWNLOAD_TIMEOUT, &mut |_| {})?;

    // Only the source is needed from that tree.
    fs::create_dir(&unpacked).map_err(Error::io("create", &unpacked))?;
    Program::new(
        "unpacking the kernel's source package",
        "tar",
        DOWNLOAD_TIMEOUT,
    )
    .arg("-xf")
    .arg(&archive)
    .args(["--no-same-owner", "-C"])
    .arg(&unpacked)
    .arg(format!("./{INSTALLED}"))
    .run(&mut |_| {})?;

    Ok(unpacked.join(INSTALLED))
}

/// Returns the version that apt would install.
fn apt_version() -> Option<String> {
    let policy = Program::new(
        "querying apt for the kernel's source",
        "apt-cache",
        QUERY_TIMEOUT,
    )
    .args(["policy", PACKAGE])
    .output()
    .ok()?;

    parse_candidate(&policy)
}

/// Returns the installed version.
fn installed_version() -> Option<String> {
    let answer = Program::new(
        "querying dpkg for the kernel's source",
        "dpkg-query",
        QUERY_TIMEOUT,
    )
    .args(["-W", "-f", "${db:Status-Status} ${Version}\\n", PACKAGE])
    .output()
    .ok()?;

    answer
        .lines()
        .find_map(|line| line.strip_prefix("installed "))
        .map(str::to_owned)
}

/// Returns the candidate version from the output of `apt-cache policy`.
fn parse_candidate(policy: &str) -> Option<String> {
    let line = policy
        .lines()
        .find_map(|line| line.trim().strip_prefix("Candidate:"))?;
    Some(line.trim().to_owned()).filter(|version| version != "(none)")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_the_candidate_version() {
        let answer =
            "linux-source-6.12:\n  Installed: (none)\n  Candidate: 6.12.9-1\n  Version table:\n";
        assert_eq!(parse_candidate(answer).as_deref(), Some("6.12.9-1"));
        assert_eq!(
            parse_candidate("x:\n  Installed: (none)\n  Candidate: (none)\n"),
            None
        );

        assert_eq!(parse_candidate(""), None);
    }
}
