//! Takes changes over into the user's folder.

use std::collections::HashSet;
use std::io;
use std::path::PathBuf;

use super::changes::Change;
use super::host_folder::{HostEntry, HostFolder};
use super::tree::Entry;

/// A change that could not be taken over.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) path: PathBuf,
    pub(super) reason: String,
}

/// Takes changes over: first what disappears, the deepest first, then what appears. Returns those that failed; the others
/// are complete. `copy`: a private copy of the guest's folder.
pub(super) fn apply(changes: &[Change], copy: &HostFolder, host: &HostFolder) -> Vec<Failure> {
    let mut failures = Vec::new();
    let mut failed = HashSet::new();
    let mut fail = |change: &Change, failed: &mut HashSet<PathBuf>, error: io::Error| {
        failed.insert(change.path.clone());
        failures.push(Failure {
            path: change.path.clone(),
            reason: error.to_string(),
        });
    };

    for change in changes.iter().rev().filter(|change| disappears(change)) {
        let removed = ensure_unchanged(change, host)
            .and_then(|()| host.remove(&change.path, change.before == Some(Entry::Directory)));
        if let Err(error) = removed {
            fail(change, &mut failed, error);
        }
    }

    let appearing = changes.iter().filter(|change| change.after.is_some());
    for change in appearing {
        if change.path.ancestors().any(|path| failed.contains(path)) {
            if !failed.contains(&change.path) {
                let error = io::Error::other("its directory was not taken over");
                fail(change, &mut failed, error);
            }
            continue;
        }
        if let Err(error) = create(change, copy, host) {
            fail(change, &mut failed, error);
        }
    }
    failures
}

/// Returns whether the existing file must be removed first: it is deleted, or changes its kind.
fn disappears(change: &Change) -> bool {
    match (&change.before, &change.after) {
        (None, _) => false,
        (Some(Entry::File { .. }), Some(Entry::File { .. })) => false,
        (Some(_), _) => true,
    }
}

fn create(change: &Change, copy: &HostFolder, host: &HostFolder) -> io::Result<()> {
    let path = &change.path;
    if !disappears(change) {
        ensure_unchanged(change, host)?;
    }

    match &change.after {
        None => Ok(()),
        Some(Entry::Directory) => host.make_directory(path),
        Some(Entry::Link { target }) => host.make_link(path, target),
        Some(Entry::File { is_executable, .. }) => {
            host.write_file(path, copy.open_file(path)?, *is_executable)
        }
    }
}

/// Checks that a path still is as it was when the changes were shown.
fn ensure_unchanged(change: &Change, host: &HostFolder) -> io::Result<()> {
    let expected = match &change.before {
        Some(entry) => HostEntry::Known(entry.clone()),
        None => HostEntry::Nothing,
    };
    if host.entry(&change.path)? == expected {
        return Ok(());
    }
    Err(io::Error::other("it changed on this host meanwhile"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::path::Path;

    use fumehood_engine::SkippedFiles;

    use super::super::changes::Comparison;
    use super::super::tree::{Tree, scan};
    use super::*;

    fn changes(before: &Tree, host: &Path, guest: &Path) -> Vec<Change> {
        let comparison = Comparison {
            before,
            after: &scan(guest).unwrap().tree,
            skipped: &SkippedFiles::default(),
            host: &HostFolder::open(host).unwrap(),
            include_git: false,
        };
        comparison.differences().unwrap().changes
    }

    fn populate(root: &Path) {
        std::fs::create_dir_all(root.join("d/e")).unwrap();
        for file in ["a", "b", "d/x", "d/e/y", "swap"] {
            std::fs::write(root.join(file), file).unwrap();
        }
    }

    #[test]
    fn the_folder_becomes_that_of_the_guest() {
        let dir = tempfile::tempdir().unwrap();
        let (host, guest) = (dir.path().join("host"), dir.path().join("guest"));
        populate(&host);
        populate(&guest);
        let before = scan(&host).unwrap().tree;

        std::fs::write(guest.join("a"), "changed").unwrap();
        std::fs::set_permissions(guest.join("b"), PermissionsExt::from_mode(0o755)).unwrap();
        std::fs::remove_dir_all(guest.join("d")).unwrap();
        symlink("a", guest.join("d")).unwrap();
        std::fs::remove_file(guest.join("swap")).unwrap();
        std::fs::create_dir_all(guest.join("swap/deep")).unwrap();
        std::fs::write(guest.join("swap/deep/file"), "new").unwrap();

        let open = |path: &Path| HostFolder::open(path).unwrap();
        let changes = changes(&before, &host, &guest);
        let failures = apply(&changes, &open(&guest), &open(&host));
        assert!(failures.is_empty(), "{failures:?}");
        assert_eq!(scan(&host).unwrap().tree, scan(&guest).unwrap().tree);
        // No temporary file is left.
        assert_eq!(std::fs::read_dir(&host).unwrap().count(), 4);
    }

    #[test]
    fn what_changed_meanwhile_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let (host, guest) = (dir.path().join("host"), dir.path().join("guest"));
        populate(&host);
        populate(&guest);
        let before = scan(&host).unwrap().tree;
        std::fs::write(guest.join("a"), "guest").unwrap();
        std::fs::write(guest.join("b"), "guest").unwrap();
        std::fs::remove_dir_all(guest.join("d")).unwrap();
        std::fs::write(guest.join("d"), "now a file").unwrap();
        let changes = changes(&before, &host, &guest);

        // After the changes were shown, the user changes a file, and adds one to a directory that disappears.
        std::fs::write(host.join("a"), "host").unwrap();
        std::fs::write(host.join("d/mine"), "mine").unwrap();

        let open = |path: &Path| HostFolder::open(path).unwrap();
        let failures = apply(&changes, &open(&guest), &open(&host));
        let failed: Vec<_> = failures.iter().map(|failure| &failure.path).collect();
        assert_eq!(failed, [Path::new("d"), Path::new("a")]);
        let read = |path: &str| std::fs::read_to_string(host.join(path)).unwrap();
        assert_eq!(
            (read("a"), read("b"), read("d/mine")),
            ("host".into(), "guest".into(), "mine".into())
        );
    }
}
