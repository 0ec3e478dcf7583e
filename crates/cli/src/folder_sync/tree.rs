//! The content of a folder: the files, directories and links that are compared.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use fumehood_engine::link_stays_inside;
use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::names::quoted;

/// Maximum number of entries of a folder.
const MAX_ENTRIES: usize = 100_000;
/// Maximum content of a folder, in bytes: what can be copied back from a guest.
const MAX_BYTES: u64 = 1024 * 1024 * 1024;
/// Maximum number of directories that a file is in.
const MAX_DEPTH: usize = 128;
/// Size of one read, in bytes.
const PIECE_BYTES: usize = 64 * 1024;

/// A file, directory or link. Of its permissions only those to execute are compared, as by git.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Entry {
    Directory,
    File {
        size: u64,
        is_executable: bool,
        /// SHA-256 of the content, in hexadecimal.
        digest: String,
    },
    Link {
        /// The target, relative and inside of the folder.
        target: PathBuf,
    },
}

/// The entries of a folder by their paths in it. A directory comes before its content.
pub(super) type Tree = BTreeMap<PathBuf, Entry>;

/// The content of a folder.
#[derive(Debug, Default)]
pub(super) struct Scan {
    pub(super) tree: Tree,
    /// Paths that are not compared, with the reason.
    pub(super) left_out: Vec<(PathBuf, String)>,
}

/// Reads a folder. Links are not followed.
///
/// # Errors
/// The folder cannot be read, or exceeds a limit.
pub(super) fn scan(folder: &Path) -> anyhow::Result<Scan> {
    let mut scan = Scan::default();
    let mut bytes = 0;
    let mut directories = vec![PathBuf::new()];

    while let Some(directory) = directories.pop() {
        let names = std::fs::read_dir(folder.join(&directory));
        let names = match names {
            Ok(names) => names,
            // A directory inside that cannot be read is left out; the folder itself must be readable.
            Err(error) if !directory.as_os_str().is_empty() => {
                scan.tree.remove(&directory);
                scan.left_out.push((directory, error.to_string()));
                continue;
            }
            Err(error) => {
                let shown = folder.display();
                return Err(error).with_context(|| format!("cannot read {shown}"));
            }
        };

        for name in names {
            let path = directory.join(name?.file_name());
            if scan.tree.len() + scan.left_out.len() >= MAX_ENTRIES {
                let shown = folder.display();
                bail!("{shown} has more than {MAX_ENTRIES} files; mount a smaller folder");
            }

            match read_entry(&folder.join(&path), &path) {
                Ok(Entry::Directory) if path.iter().count() > MAX_DEPTH => {
                    let reason = format!("it is in more than {MAX_DEPTH} directories");
                    scan.left_out.push((path, reason));
                }
                Ok(entry) => {
                    if let Entry::File { size, .. } = &entry {
                        bytes += size;
                    }
                    if bytes > MAX_BYTES {
                        let shown = folder.display();
                        let mib = MAX_BYTES / 1024 / 1024;
                        bail!("{shown} has more than {mib} MiB; mount a smaller folder");
                    }
                    if entry == Entry::Directory {
                        directories.push(path.clone());
                    }
                    scan.tree.insert(path, entry);
                }
                Err(error) => scan.left_out.push((path, error.to_string())),
            }
        }
    }
    Ok(scan)
}

/// Reads the file at `source`, which is `path` in its folder.
fn read_entry(source: &Path, path: &Path) -> io::Result<Entry> {
    let metadata = std::fs::symlink_metadata(source)?;
    let kind = metadata.file_type();
    if kind.is_dir() {
        return Ok(Entry::Directory);
    }
    if kind.is_symlink() {
        return link_entry(path, std::fs::read_link(source)?);
    }
    if !kind.is_file() {
        return Err(io::Error::other("neither a file, a directory nor a link"));
    }

    // The path may lead to something else by now: a link, or a pipe without a writer.
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = File::options()
        .read(true)
        .custom_flags(flags.bits().cast_signed())
        .open(source)?;
    file_entry(file)
}

/// Returns the entry of a link.
///
/// # Errors
/// It leaves the folder.
pub(super) fn link_entry(path: &Path, target: PathBuf) -> io::Result<Entry> {
    if link_stays_inside(path, &target) {
        return Ok(Entry::Link { target });
    }
    let shown = quoted("", &target);
    Err(io::Error::other(format!(
        "a link out of the folder, to {shown}"
    )))
}

/// Returns the entry of an open file.
///
/// # Errors
/// It is not a regular file, or cannot be read.
pub(super) fn file_entry(mut file: File) -> io::Result<Entry> {
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::other("not a regular file"));
    }

    let (mut hash, mut size) = (Sha256::new(), 0);
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        let len = file.read(&mut piece)?;
        if len == 0 {
            break;
        }
        hash.update(&piece[..len]);
        size += len as u64;
        if size > MAX_BYTES {
            return Err(io::Error::other("larger than all that can be copied back"));
        }
    }

    let digest = hash.finalize();
    Ok(Entry::File {
        size,
        is_executable: metadata.permissions().mode() & 0o100 != 0,
        digest: digest.iter().map(|byte| format!("{byte:02x}")).collect(),
    })
}

/// Returns the bytes of a name for comparison on file systems that ignore case.
pub(super) fn folded(name: &OsStr) -> Vec<u8> {
    match name.to_str() {
        Some(text) => text.to_lowercase().into_bytes(),
        None => name.as_bytes().to_ascii_lowercase(),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_folder_is_read_without_following_links() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        std::fs::create_dir_all(root.join("a/b")).unwrap();
        std::fs::write(root.join("a/x"), "x\n").unwrap();
        symlink("x", root.join("a/in")).unwrap();
        symlink("../../etc", root.join("a/out")).unwrap();
        symlink("/etc", root.join("abs")).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, root.join("pipe"), 0o600.into()).unwrap();

        let scan = scan(root).unwrap();

        let paths: Vec<_> = scan
            .tree
            .keys()
            .map(|path| path.display().to_string())
            .collect();
        assert_eq!(paths, ["a", "a/b", "a/in", "a/x"]);
        let mut left_out: Vec<_> = scan.left_out.iter().map(|(path, _)| path).collect();
        left_out.sort();
        assert_eq!(left_out, ["a/out", "abs", "pipe"].map(Path::new));
    }
}
