//! Downloads bun from the npm registry that the host's npm is configured for.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::download::{self, Pinned};
use super::program::{Program, missing_programs};
use crate::Error;
use crate::progress::StepEnd;
use crate::store::Store;

/// The version in the guest, built for processors without AVX2.
pub(crate) const BUN: Pinned = Pinned {
    name: "bun",
    version: "1.4.5",
    sha256: "c18ff4130882eaa8209f0b3e66a202abd1e07a137f38a254d0b7431bc6a03827",
};
const PACKAGE: &str = "@oven/bun-linux-x64-baseline";
/// The deadline of a download of 52 MB.
const TIMEOUT: Duration = Duration::from_secs(10 * 60);

/// Returns bun's package from the cache, or downloads it.
pub(crate) fn obtain(store: &Store) -> Result<(PathBuf, StepEnd), Error> {
    download::obtain(store, &BUN, fetch)
}

/// Returns errors for what downloading bun needs and is missing.
pub(crate) fn missing_prerequisites(store: &Store) -> Vec<Error> {
    if download::is_cached(store, &BUN) {
        return Vec::new();
    }
    let purpose = "required to download bun from the npm registry";
    missing_programs(&[("npm", "npm")], purpose)
}

/// Downloads the package into a directory.
fn fetch(to: &Path) -> Result<(), Error> {
    Program::new("downloading bun", "npm", TIMEOUT)
        .args(["pack", "--silent"])
        .arg(format!("{PACKAGE}@{}", BUN.version))
        .current_dir(to)
        .run(&mut |_| {})
}

/// Extracts the program from the package.
pub(crate) fn unpack(package: &Path, to: &Path) -> Result<PathBuf, Error> {
    Program::new("unpacking bun", "tar", TIMEOUT)
        .arg("-xzf")
        .arg(package)
        .args(["--no-same-owner", "-C"])
        .arg(to)
        .arg("package/bin/bun")
        .run(&mut |_| {})?;

    Ok(to.join("package/bin/bun"))
}
