//! What somebody else needs who may read nothing of these tests' own user.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use fumehood_engine::image::Store;

use crate::program;

/// A copy of the store that everybody may read.
///
/// # Panics
/// When there is no image, or no room.
#[must_use]
pub fn copy_store() -> tempfile::TempDir {
    let store = Store::default_root().expect("a store");
    let copy = tempfile::tempdir().expect("a directory");
    fs::set_permissions(copy.path(), Permissions::from_mode(0o755)).expect("its mode");
    let mut command = Command::new("cp");
    command.arg("-a").arg(store.join("images")).arg(copy.path());
    assert!(command.status().expect("cp").success());
    copy
}

/// Copies the command and its launcher into a directory: the build's may be closed to others. Returns the command.
///
/// # Panics
/// When one is not there, or cannot be copied.
#[must_use]
pub fn copy_programs(into: &Path) -> PathBuf {
    for name in ["fumehood", "fumehood-launcher"] {
        fs::copy(program().with_file_name(name), into.join(name)).expect("a copy");
    }
    into.join("fumehood")
}
