//! Writing files so that they survive a crash of the process or of the machine.

use std::fs::{self, File};
use std::path::Path;

use crate::Error;

/// Flushes a file's contents to the disk.
pub(crate) fn sync_file(path: &Path) -> Result<(), Error> {
    let file = File::open(path).map_err(Error::io("open", path))?;
    file.sync_all().map_err(Error::io("flush", path))
}

/// Flushes a directory to the disk, so that a rename in it survives a power failure.
pub(crate) fn sync_directory(directory: &Path) -> Result<(), Error> {
    File::open(directory)
        .and_then(|handle| handle.sync_all())
        .map_err(Error::io("flush", directory))
}

/// Writes `contents` to `directory/name` through a temporary file and a rename, so that no reader sees a
/// partly written file.
pub(crate) fn replace_file(directory: &Path, name: &str, contents: &[u8]) -> Result<(), Error> {
    let path = directory.join(name);
    let temporary = tempfile::NamedTempFile::new_in(directory)
        .map_err(Error::io("create a file in", directory))?;
    fs::write(temporary.path(), contents).map_err(Error::io("write", &path))?;

    temporary
        .persist(&path)
        .map_err(|e| Error::io("replace", &path)(e.error))?;

    Ok(())
}
