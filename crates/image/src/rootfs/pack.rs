//! Creates the file system image of an assembled tree.

use std::path::Path;
use std::time::Duration;

use crate::Error;
use crate::options::RootFormat;
use crate::tools::program::{Program, missing_programs};

/// The deadline of a step that takes seconds.
const TIMEOUT: Duration = Duration::from_secs(10 * 60);
/// The time of every file, 2020-01-01. A fixed time makes equal trees give equal bytes, and it is after 1980,
/// the earliest date in a zip archive.
const FILE_TIME: &str = "1577836800";
/// A fixed UUID, also for equal bytes. The file system is never looked up by it.
const UUID: &str = "66756d65-686f-4f64-8000-000000000001";

/// Returns errors for what packing needs and is missing.
pub(crate) fn missing_prerequisites() -> Vec<Error> {
    let purpose = "required to create the guest's root file system";
    missing_programs(&[("mkfs.erofs", "erofs-utils"), ("tar", "tar")], purpose)
}

/// Writes `tree` to `image` as erofs with all files owned by root.
pub(crate) fn pack(tree: &Path, format: RootFormat, image: &Path) -> Result<(), Error> {
    let mut program = Program::new("creating the root file system", "mkfs.erofs", TIMEOUT).args([
        "--quiet",
        "--all-root",
        "-x-1",
        "-T",
        FILE_TIME,
        "-U",
        UUID,
    ]);

    if format == RootFormat::Lz4 {
        program = program.arg("-zlz4");
    }

    program.args([image, tree]).run(&mut |_| {})
}
