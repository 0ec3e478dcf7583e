//! Debian's packages, installed into a tree and cached as an archive.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::Error;
use crate::hash::Fields;
use crate::options::BuildOptions;
use crate::progress::{StepEnd, StepProgress};
use crate::store::{Store, sync_file};
use crate::tools::mmdebstrap::{self, Request, Variant};

/// The guest's packages in addition to Debian's essential ones.
const PACKAGES: [&str; 26] = [
    "bash",
    "ca-certificates",
    "coreutils",
    "curl",
    "diffutils",
    // Used by a guest that builds a layer of packages.
    "erofs-utils",
    "file",
    "findutils",
    "gawk",
    "git",
    "grep",
    "gzip",
    "jq",
    "less",
    "libatomic1",
    "libstdc++6",
    "make",
    "patch",
    "procps",
    "python3",
    "sed",
    "tar",
    "tree",
    "unzip",
    "xz-utils",
    "tzdata",
];
/// Paths that are never unpacked.
const EXCLUDED: [&str; 6] = [
    "/usr/share/doc/*",
    "/usr/share/info/*",
    "/usr/share/lintian/*",
    "/usr/share/locale/*",
    "/usr/share/man/*",
    "/usr/share/bash-completion/*",
];
/// Compiles the standard library in a mode in which CPython does not compare timestamps. A stale or foreign
/// timestamp would discard the compiled files, which costs two seconds at every start under emulation. The
/// command runs in the guest's tree with the guest's own Python; the inner shell sees the guest's
/// directories, not the host's.
const COMPILE: &str = "chroot \"$1\" sh -c 'python3 -m compileall -q -f \
    --invalidation-mode unchecked-hash /usr/lib/python3 /usr/lib/python3.[0-9]*'";
/// The deadline of the installation, which takes half a minute on two processors with a nearby mirror.
const TIMEOUT: Duration = Duration::from_secs(30 * 60);
/// Messages that mmdebstrap prints in one installation (measured). They measure the progress.
const EXPECTED_MESSAGES: u32 = 15;

/// Returns the archive of the base tree from the cache, or creates it.
pub(crate) fn obtain(
    store: &Store,
    suite: &str,
    refresh: bool,
    progress: &mut StepProgress<'_>,
) -> Result<(PathBuf, StepEnd), Error> {
    let cached = path(store, suite);
    if cached.exists() && !refresh {
        return Ok((cached, StepEnd::Cached));
    }

    let work = store.work_dir()?;
    let archive = work.path().join("base.tar");
    install(suite, &archive, work.path(), progress)?;
    sync_file(&archive)?;
    fs::rename(&archive, &cached).map_err(Error::io("cache", &cached))?;

    Ok((cached, StepEnd::Done))
}

/// Returns errors for missing prerequisites of the installation. A cached archive needs none.
pub(crate) fn missing_prerequisites(store: &Store, options: &BuildOptions) -> Vec<Error> {
    if path(store, &options.suite).exists() && !options.refresh {
        Vec::new()
    } else {
        mmdebstrap::missing_prerequisites()
    }
}

fn path(store: &Store, suite: &str) -> PathBuf {
    store.cache("base").join(format!("{}.tar", key(suite)))
}

/// Returns a hash of everything that the base tree is made from.
pub(crate) fn key(suite: &str) -> String {
    Fields::default()
        .add("suite", suite)
        .add("packages", PACKAGES.join(","))
        .add("excluded", EXCLUDED.join(","))
        .add("compile", COMPILE)
        .finish()
}

/// Installs the packages and writes the tree to `archive`.
fn install(
    suite: &str,
    archive: &Path,
    work: &Path,
    progress: &mut StepProgress<'_>,
) -> Result<(), Error> {
    let mut options: Vec<String> = EXCLUDED
        .iter()
        .map(|path| format!("--dpkgopt=path-exclude={path}"))
        .collect();
    options.push(format!("--customize-hook={COMPILE}"));

    let request = Request {
        task: "installing the guest's Debian packages",
        variant: Variant::Essential,
        packages: &PACKAGES,
        suite,
        options: &options,
    };

    let mut messages = 0;
    mmdebstrap::run(&request, archive, work, TIMEOUT, &mut |line| {
        if let Some(message) = line.strip_prefix("I: ") {
            messages += 1;
            progress.fraction(f64::from(messages) / f64::from(EXPECTED_MESSAGES), message);
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_depends_on_the_suite() {
        assert_eq!(key("trixie"), key("trixie"));
        assert_ne!(key("trixie"), key("forky"));
    }
}
