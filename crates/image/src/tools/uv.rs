//! Downloads uv from the Python package index that the host's pip is configured for.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::download::{self, Pinned};
use super::program::{Program, missing_programs};
use crate::Error;
use crate::progress::StepEnd;
use crate::store::Store;

/// The version in the guest.
pub(crate) const UV: Pinned = Pinned {
    name: "uv",
    version: "0.13.9",
    sha256: "d7f459fe4fd247d830351c75686d3996ace3c6f3f728eb0e85a30b7ada0cef19",
};
/// The deadline of a download of 18 MB.
const TIMEOUT: Duration = Duration::from_secs(10 * 60);
/// The guest's platform, which may differ from that of the host's Python.
const PLATFORM: &str = "manylinux2014_x86_64";

/// Returns uv's wheel from the cache, or downloads it.
pub(crate) fn obtain(store: &Store) -> Result<(PathBuf, StepEnd), Error> {
    download::obtain(store, &UV, fetch)
}

/// Returns errors for what uv needs and is missing: Python to unpack it, and pip to download it.
pub(crate) fn missing_prerequisites(store: &Store) -> Vec<Error> {
    let purpose = "required to download uv from the Python package index";
    let mut missing = missing_programs(&[("python3", "python3")], purpose);
    let must_download = missing.is_empty() && !download::is_cached(store, &UV);

    if must_download && pip().arg("--version").run(&mut |_| {}).is_err() {
        missing.push(Error::MissingProgram {
            program: "pip".to_owned(),
            purpose,
            package: "python3-pip",
        });
    }
    missing
}

/// Downloads the wheel into a directory.
fn fetch(to: &Path) -> Result<(), Error> {
    pip()
        .args([
            "download",
            "--disable-pip-version-check",
            "--no-deps",
            "--only-binary=:all:",
        ])
        .args(["--platform", PLATFORM, "--progress-bar=off", "--dest"])
        .arg(to)
        .arg(format!("uv=={}", UV.version))
        .run(&mut |_| {})
}

fn pip() -> Program {
    Program::new("downloading uv", "python3", TIMEOUT).args(["-m", "pip"])
}

/// Extracts the programs from the wheel. Returns pairs of a name and the extracted file.
pub(crate) fn unpack(wheel: &Path, to: &Path) -> Result<Vec<(&'static str, PathBuf)>, Error> {
    Program::new("unpacking uv", "python3", TIMEOUT)
        .args(["-m", "zipfile", "-e"])
        .args([wheel, to])
        .run(&mut |_| {})?;

    let scripts = to.join(format!("uv-{}.data/scripts", UV.version));
    Ok(["uv", "uvx"]
        .map(|name| (name, scripts.join(name)))
        .to_vec())
}
