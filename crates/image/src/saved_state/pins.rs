//! The files that states need and share: memories of templates, root file systems, layers of packages.
//!
//! `pinned/KIND-DIGEST` is a hard link to the file of the template, image or layer, so that it takes no space and stays if
//! that is removed. On another file system it is a copy. A pinned file is removed when no state needs it, no process has
//! it open, and no other link to it exists.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FlockOperation, flock, linkat};

use super::manifest::{PinnedFile, StateManifest};
use crate::artifact_cache::{Lock, PruneReport};
use crate::sparse::copy_sparse;
use crate::store::{IDENTITY_FILE, Identity, load_identities, save_identities, sync_directory};
use crate::{Error, hash, template};

/// The extension of a copy that is not complete.
const PARTIAL: &str = "part";

/// The kind of a pinned file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PinKind {
    Template,
    Rootfs,
    Layer,
}

impl PinKind {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Template => "template",
            Self::Rootfs => "rootfs",
            Self::Layer => "layer",
        }
    }
}

/// A file that a state needs.
#[derive(Clone, Copy, Debug)]
pub struct NeededFile<'a> {
    /// The file, open for reading. Its contents never change.
    pub file: &'a File,
    /// Its digest; see [`PinnedFile::sha256`].
    pub sha256: &'a str,
}

/// The directory of pinned files.
#[derive(Debug)]
pub(super) struct Pins {
    root: PathBuf,
}

impl Pins {
    pub(super) fn new(root: PathBuf) -> Self {
        Self { root }
    }

    pub(super) fn path(&self, kind: PinKind, sha256: &str) -> PathBuf {
        self.root.join(file_name(kind, sha256))
    }

    /// Pins a file. It is kept at least as long as the returned file is open. The lock is that of the directory of states.
    pub(super) fn pin(
        &self,
        kind: PinKind,
        needed: NeededFile<'_>,
        _lock: &Lock,
    ) -> Result<(PinnedFile, File), Error> {
        let path = self.path(kind, needed.sha256);
        let bytes = size(needed.file, &path)?;
        let existing = File::open(&path).ok();
        let existing = existing.filter(|file| size(file, &path).ok() == Some(bytes));

        let file = match existing {
            Some(file) => file,
            None => {
                link_or_copy(needed.file, &path)?;
                sync_directory(&self.root)?;
                let file = File::open(&path).map_err(Error::io("open", &path))?;
                self.record_identity(kind, needed.sha256, &file);
                file
            }
        };
        keep(&file, &path)?;

        let sha256 = needed.sha256.to_owned();
        Ok((PinnedFile { sha256, bytes }, file))
    }

    /// Opens a pinned file. It is hashed only if its identity changed since its last hash. The error is the reason.
    pub(super) fn open(&self, kind: PinKind, pinned: &PinnedFile) -> Result<File, String> {
        let path = self.path(kind, &pinned.sha256);
        let text = |error: Error| error.to_string();
        let mut file = File::open(&path).map_err(|error| error.to_string())?;
        keep(&file, &path).map_err(text)?;

        let found = size(&file, &path).map_err(text)?;
        if found != pinned.bytes {
            return Err(format!("{found} bytes instead of {}", pinned.bytes));
        }

        let recorded = load_identities(&self.root.join(IDENTITY_FILE));
        let identity = Identity::of(&file, &path).map_err(text)?;
        if recorded.get(&file_name(kind, &pinned.sha256)) != Some(&identity) {
            let found = digest(kind, &mut file, &path).map_err(text)?;
            if found != pinned.sha256 {
                return Err(format!("sha256 {found} instead of {}", pinned.sha256));
            }
            self.record_identity(kind, &pinned.sha256, &file);
        }
        Ok(file)
    }

    /// Records a file that has the right content. A failure only costs a hash.
    fn record_identity(&self, kind: PinKind, sha256: &str, file: &File) {
        let mut identities = load_identities(&self.root.join(IDENTITY_FILE));
        let recorded = Identity::of(file, &self.root).and_then(|identity| {
            identities.insert(file_name(kind, sha256), identity);
            save_identities(&self.root, &identities)
        });
        if let Err(error) = recorded {
            tracing::debug!(%error, "cannot record the identity of a pinned file");
        }
    }

    /// Removes files that none of these states needs and that would otherwise not exist any more.
    pub(super) fn remove_unused(
        &self,
        states: &[StateManifest],
        _lock: &Lock,
    ) -> Result<PruneReport, Error> {
        let needed: BTreeSet<String> = states.iter().flat_map(names).collect();
        let mut report = PruneReport::default();
        let listing = match fs::read_dir(&self.root) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(report),
            other => other.map_err(Error::io("read", &self.root))?,
        };

        for item in listing.flatten() {
            let (path, name) = (item.path(), item.file_name());
            let is_needed = name
                .to_str()
                .is_none_or(|name| name == IDENTITY_FILE || needed.contains(name));
            if is_needed || !is_last_and_closed(&path) {
                continue;
            }
            let bytes = item
                .metadata()
                .map_or(0, |metadata| metadata.blocks() * 512);
            report.add(
                bytes,
                fs::remove_file(&path).map_err(Error::io("remove", &path)),
            );
        }
        Ok(report)
    }
}

/// Returns the names of the files that a state needs.
fn names(state: &StateManifest) -> impl Iterator<Item = String> {
    let name = |kind: PinKind| move |file: &PinnedFile| file_name(kind, &file.sha256);
    let rootfs = [name(PinKind::Rootfs)(&state.rootfs)];
    let template = state.template.as_ref().map(name(PinKind::Template));
    let layer = state.layer.as_ref().map(name(PinKind::Layer));
    rootfs.into_iter().chain(template).chain(layer)
}

fn file_name(kind: PinKind, sha256: &str) -> String {
    format!("{}-{sha256}", kind.name())
}

fn size(file: &File, path: &Path) -> Result<u64, Error> {
    let metadata = file.metadata().map_err(Error::io("inspect", path))?;
    Ok(metadata.len())
}

fn digest(kind: PinKind, file: &mut File, path: &Path) -> Result<String, Error> {
    match kind {
        PinKind::Template => template::memory_digest(file).map_err(Error::io("read", path)),
        PinKind::Rootfs | PinKind::Layer => hash::of_file(file, path),
    }
}

/// Locks a file for as long as it is open, so that it is not removed.
fn keep(file: &File, path: &Path) -> Result<(), Error> {
    // A removal holds the lock only for a moment.
    flock(file, FlockOperation::LockShared).map_err(|error| Error::io("lock", path)(error.into()))
}

/// Returns whether this is the last link to a file that no process has open.
fn is_last_and_closed(path: &Path) -> bool {
    let Ok(file) = File::open(path) else {
        return false;
    };
    let is_last = file.metadata().is_ok_and(|metadata| metadata.nlink() == 1);
    is_last && flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok()
}

fn link_or_copy(file: &File, path: &Path) -> Result<(), Error> {
    if path.exists() {
        fs::remove_file(path).map_err(Error::io("replace", path))?;
    }

    // The file may have lost its name, and its directory may belong to another user or file system.
    let descriptor = format!("/proc/self/fd/{}", file.as_raw_fd());
    if linkat(CWD, &descriptor, CWD, path, AtFlags::SYMLINK_FOLLOW).is_ok() {
        return Ok(());
    }

    // The descriptor shares its position with others.
    let source = File::open(&descriptor).map_err(Error::io("open", path))?;
    let partial = path.with_extension(PARTIAL);
    let copy = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&partial)
        .map_err(Error::io("create", &partial))?;
    let copied = copy_sparse(&source, &copy)
        .and_then(|_| copy.sync_all().map_err(Error::io("flush", &partial)))
        .and_then(|()| fs::rename(&partial, path).map_err(Error::io("create", path)));
    copied.inspect_err(|_| {
        let _ = fs::remove_file(&partial);
    })
}
