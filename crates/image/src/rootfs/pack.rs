//! Makes the file system image of an assembled tree.

use std::path::Path;
use std::time::Duration;

use crate::Error;
use crate::options::RootFormat;
use crate::tools::program::{Program, require_program};

/// It takes seconds.
const TIMEOUT: Duration = Duration::from_secs(10 * 60);
/// Every file's time, 2020-01-01: equal trees are equal bytes, and no program meets a date before 1980,
/// which zip archives cannot hold.
const FILE_TIME: &str = "1577836800";
/// Fixed, for the same reason; nobody looks the file system up by it.
const UUID: &str = "66756d65-686f-4f64-8000-000000000001";

/// Writes `tree` as erofs to `image`, everything owned by root.
pub(crate) fn pack(tree: &Path, format: RootFormat, image: &Path) -> Result<(), Error> {
    require_program(
        "mkfs.erofs",
        "the guest's root file system is made",
        "erofs-utils",
    )?;

    let mut program = Program::new("making the root file system", "mkfs.erofs", TIMEOUT).args([
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
