//! The first root of the guest: the agent and the places it mounts on.

use std::fs;
use std::path::PathBuf;

use super::cpio::Archive;
use crate::Error;

/// Directories the agent mounts on before it moves to the real root.
const DIRECTORIES: [&str; 5] = ["dev", "proc", "sys", "mnt", "newroot"];
/// The console: the kernel opens it for the first process before anything is mounted.
const CONSOLE: (u32, u32) = (5, 1);

/// The archive with `agent` as `/init`. A kernel with modules has them in `/modules`, with the order in
/// which the agent is to load them, one name a line, in `/modules/order`.
pub(crate) fn build(agent: &[u8], modules: &[(String, PathBuf)]) -> Result<Vec<u8>, Error> {
    let mut archive = start_archive(agent);
    if !modules.is_empty() {
        archive.directory("modules", 0o755);
        let order: String = modules
            .iter()
            .map(|(name, _)| format!("{name}\n"))
            .collect();
        archive.file("modules/order", 0o644, order.as_bytes());
    }

    for (name, path) in modules {
        let contents = fs::read(path).map_err(Error::io("read", path))?;
        archive.file(&format!("modules/{name}"), 0o644, &contents);
    }

    Ok(archive.finish())
}

/// An archive whose first process is `init` and nothing more: for measuring what a boot costs at least.
pub fn floor(init: &[u8]) -> Vec<u8> {
    start_archive(init).finish()
}

/// What every archive begins with.
fn start_archive(init: &[u8]) -> Archive {
    let mut archive = Archive::default();
    for directory in DIRECTORIES {
        archive.directory(directory, 0o755);
    }

    archive.character_device("dev/console", 0o600, CONSOLE);
    archive.file("init", 0o755, init);
    archive
}
