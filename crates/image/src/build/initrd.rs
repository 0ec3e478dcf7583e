//! The guest's first root file system: the agent and the directories it mounts on.

use std::fs;
use std::path::PathBuf;

use super::cpio::Archive;
use crate::Error;

/// The directories that the agent mounts on before it switches to the real root.
const DIRECTORIES: [&str; 5] = ["dev", "proc", "sys", "mnt", "newroot"];
/// The console's device number. The kernel opens the console for the first process before anything is
/// mounted.
const CONSOLE: (u32, u32) = (5, 1);

/// Returns the archive with `agent` as `/init`. If the kernel has modules, they are in `/modules`;
/// `/modules/order` lists them in the order in which the agent loads them, one name per line.
///
/// # Errors
/// Returns an error if a module cannot be read.
pub fn build(agent: &[u8], modules: &[(String, PathBuf)]) -> Result<Vec<u8>, Error> {
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

/// Returns an archive that contains only `init` as its first process. It measures the minimum time of a boot.
pub fn floor(init: &[u8]) -> Vec<u8> {
    start_archive(init).finish()
}

/// Starts an archive with the entries that all archives share.
fn start_archive(init: &[u8]) -> Archive {
    let mut archive = Archive::default();
    for directory in DIRECTORIES {
        archive.directory(directory, 0o755);
    }

    archive.character_device("dev/console", 0o600, CONSOLE);
    archive.file("init", 0o755, init);
    archive
}
