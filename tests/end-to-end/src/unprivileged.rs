//! Copies of the image and the programs for tests that run the command as another, unprivileged user.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use fumehood_engine::image::Store;

use crate::program;

/// Copies the store's images to a directory that all users may read.
///
/// # Panics
/// Panics if there is no image, or no space.
#[must_use]
pub fn copy_store() -> tempfile::TempDir {
    let store = Store::default_root().expect("a store");
    let copy = tempfile::tempdir().expect("a directory");
    fs::set_permissions(copy.path(), Permissions::from_mode(0o755)).expect("its mode");
    let mut command = Command::new("cp");
    // With the launcher, for engines of this program.
    command
        .arg("-a")
        .args([store.join("images"), store.join("bin")]);
    command.arg(copy.path());
    assert!(command.status().expect("cp").success());
    copy
}

/// Copies the command and its launcher into a directory, since other users may have no access to the build's, and
/// returns the command's path.
///
/// # Panics
/// Panics if one does not exist or cannot be copied.
#[must_use]
pub fn copy_programs(into: &Path) -> PathBuf {
    for name in ["fumehood", "fumehood-launcher"] {
        fs::copy(program().with_file_name(name), into.join(name)).expect("a copy");
    }
    into.join("fumehood")
}
