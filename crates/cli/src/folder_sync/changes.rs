//! The changes of a guest in a folder, and which of them may be taken over. A pure comparison, except that it looks at the
//! user's folder.

use std::collections::{HashMap, HashSet};
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use fumehood_engine::SkippedFiles;

use super::host_folder::{HostEntry, HostFolder};
use super::names::{has_control_characters, is_in_git};
use super::tree::{Entry, Tree, folded};

/// A difference between a folder as it was copied in and as the guest has it now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) path: PathBuf,
    pub(super) before: Option<Entry>,
    pub(super) after: Option<Entry>,
}

/// A change that is not taken over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) path: PathBuf,
    pub(super) reason: &'static str,
}

/// The differences of a folder.
#[derive(Debug, Default)]
pub(super) struct Differences {
    /// What may be taken over, by path.
    pub(super) changes: Vec<Change>,
    pub(super) refusals: Vec<Refusal>,
    /// Changes that the folder on this host has already.
    pub(super) equal: Vec<Change>,
}

/// Why changes in `.git` are not taken over.
const IN_GIT: &str =
    "in .git, whose configuration and hooks can run programs on this host (--include-git)";

/// What to compare.
pub(super) struct Comparison<'a> {
    /// The folder as it was copied into the guest.
    pub(super) before: &'a Tree,
    /// The folder as it came out of the guest.
    pub(super) after: &'a Tree,
    /// What did not come out of the guest.
    pub(super) skipped: &'a SkippedFiles,
    /// The folder on this host, as it is now.
    pub(super) host: &'a HostFolder,
    pub(super) include_git: bool,
}

impl Comparison<'_> {
    /// Returns the differences.
    ///
    /// # Errors
    /// The folder on this host cannot be read.
    pub(super) fn differences(&self) -> io::Result<Differences> {
        let mut differences = Differences::default();
        let mut refused = HashSet::new();
        // Files and links that become directories: nothing is in them yet.
        let mut replaced: HashSet<&Path> = HashSet::new();
        let mut names = NamesOnHost::default();

        for (path, before, after) in self.changed_paths() {
            let change = Change {
                path: path.clone(),
                before: before.cloned(),
                after: after.cloned(),
            };
            if after.is_none() && self.was_skipped(path) {
                continue;
            }

            let mut directories = path.ancestors().skip(1);
            let on_host = match directories.any(|directory| replaced.contains(directory)) {
                true => HostEntry::Nothing,
                false => self.host.entry(path)?,
            };
            if on_host == known(after) {
                differences.equal.push(change);
                continue;
            }

            let refusal = self.refusal(&change, &on_host, &refused, &mut names);
            match refusal {
                Some(reason) => {
                    refused.insert(path.clone());
                    let path = path.clone();
                    differences.refusals.push(Refusal { path, reason });
                }
                None => {
                    if before.is_some() && after == Some(&Entry::Directory) {
                        replaced.insert(path);
                    }
                    differences.changes.push(change);
                }
            }
        }
        Ok(differences)
    }

    /// Returns the paths whose entries differ, in order: a directory comes before its content.
    fn changed_paths(&self) -> Vec<(&PathBuf, Option<&Entry>, Option<&Entry>)> {
        let added = self
            .after
            .keys()
            .filter(|path| !self.before.contains_key(*path));
        let mut paths: Vec<_> = self.before.keys().chain(added).collect();
        paths.sort();

        let entries = paths
            .into_iter()
            .map(|path| (path, self.before.get(path), self.after.get(path)));
        entries
            .filter(|(_, before, after)| before != after)
            .collect()
    }

    /// Returns whether a path did not come out of the guest for another reason than that it was deleted: it, or a directory
    /// that it is in, was left out. Names are compared as reports show them: at worst, a deletion is not taken over.
    fn was_skipped(&self, path: &Path) -> bool {
        let shown = |path: &Path| {
            let text = path.to_string_lossy();
            text.replace(char::is_control, "\u{fffd}")
        };
        let ancestors: HashSet<_> = path.ancestors().map(shown).collect();
        let mut files = self.skipped.files.iter();
        files.any(|file| {
            let skipped = file.path.trim_start_matches("./").trim_end_matches('/');
            ancestors.contains(skipped)
        })
    }

    /// Returns why a change is not taken over.
    fn refusal(
        &self,
        change: &Change,
        on_host: &HostEntry,
        refused: &HashSet<PathBuf>,
        names: &mut NamesOnHost,
    ) -> Option<&'static str> {
        let path = &change.path;
        let is_added = change.before.is_none();
        // More files were left out than are listed: any of them may look deleted.
        let is_uncertain = self.skipped.count > self.skipped.files.len() as u64;

        if is_in_git(path) && !self.include_git {
            return Some(IN_GIT);
        }
        if path.ancestors().skip(1).any(|dir| refused.contains(dir)) && change.after.is_some() {
            return Some("its directory is not taken over");
        }
        if change.after.is_none() && is_uncertain {
            return Some("too many files could not be copied to know whether it was deleted");
        }
        if is_added && has_control_characters(path) {
            return Some("its name has control characters");
        }
        if is_added && names.collides(path, self) {
            return Some("its name differs from another one only by case");
        }
        if *on_host != known(change.before.as_ref()) {
            return Some(match is_added {
                true => "something else exists there on this host",
                false => "it changed on this host, too",
            });
        }
        None
    }
}

fn known(entry: Option<&Entry>) -> HostEntry {
    entry.map_or(HostEntry::Nothing, |entry| HostEntry::Known(entry.clone()))
}

/// The names in directories, with upper and lower case folded: those on this host, and those from the guest.
#[derive(Debug, Default)]
struct NamesOnHost {
    by_directory: HashMap<PathBuf, HashMap<Vec<u8>, HashSet<OsString>>>,
}

impl NamesOnHost {
    /// Returns whether another name in the same directory differs from that of `path` only by case.
    fn collides(&mut self, path: &Path, comparison: &Comparison<'_>) -> bool {
        let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
            return false;
        };

        let names = self
            .by_directory
            .entry(directory.to_owned())
            .or_insert_with(|| {
                let mut names: HashMap<Vec<u8>, HashSet<OsString>> = HashMap::new();
                let from_guest = comparison
                    .after
                    .range(directory.to_owned()..)
                    .map(|(path, _)| path)
                    .take_while(|path| path.starts_with(directory))
                    .filter(|path| path.parent() == Some(directory))
                    .filter_map(|path| path.file_name().map(ToOwned::to_owned));
                for name in comparison.host.siblings(path).into_iter().chain(from_guest) {
                    names.entry(folded(&name)).or_default().insert(name);
                }
                names
            });
        let equal = names.get(&folded(name));
        equal.is_some_and(|equal| equal.iter().any(|other| other != name))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::super::tree::scan;
    use super::*;

    /// A folder on this host and in a guest, with equal content.
    struct Folders {
        dir: tempfile::TempDir,
        before: Tree,
    }

    impl Folders {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            for folder in ["host", "guest"] {
                let root = dir.path().join(folder);
                std::fs::create_dir_all(root.join("src")).unwrap();
                std::fs::create_dir_all(root.join(".git/hooks")).unwrap();
                for file in ["a", "b", "src/x", "src/y", ".git/config"] {
                    std::fs::write(root.join(file), file).unwrap();
                }
            }
            let before = scan(&dir.path().join("host")).unwrap().tree;
            Self { dir, before }
        }

        fn host(&self, path: &str) -> PathBuf {
            self.dir.path().join("host").join(path)
        }

        fn guest(&self, path: &str) -> PathBuf {
            self.dir.path().join("guest").join(path)
        }

        /// Returns the paths of changes and of refusals with their reasons.
        fn compare(
            &self,
            skipped: &SkippedFiles,
            include_git: bool,
        ) -> (Vec<String>, Vec<(String, &'static str)>) {
            let after = scan(&self.guest("")).unwrap().tree;
            let comparison = Comparison {
                before: &self.before,
                after: &after,
                skipped,
                host: &HostFolder::open(&self.host("")).unwrap(),
                include_git,
            };
            let differences = comparison.differences().unwrap();
            let shown = |path: &Path| path.to_string_lossy().into_owned();
            (
                differences.changes.iter().map(|c| shown(&c.path)).collect(),
                differences
                    .refusals
                    .iter()
                    .map(|r| (shown(&r.path), r.reason))
                    .collect(),
            )
        }
    }

    fn none() -> SkippedFiles {
        SkippedFiles::default()
    }

    fn skipped(paths: &[&str], count: u64) -> SkippedFiles {
        let files: Vec<_> = paths
            .iter()
            .map(|path| serde_json::json!({ "path": path, "reason": "" }))
            .collect();
        let value = serde_json::json!({ "count": count, "failed": 0, "files": files });
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn what_changed_in_the_guest_is_found() {
        let folders = Folders::new();
        std::fs::write(folders.guest("a"), "A").unwrap();
        std::fs::write(folders.guest("new"), "").unwrap();
        std::fs::remove_file(folders.guest("src/x")).unwrap();
        assert_eq!(
            folders.compare(&none(), false),
            (vec!["a".into(), "new".into(), "src/x".into()], vec![])
        );

        // What this host has already is no difference.
        std::fs::write(folders.host("a"), "A").unwrap();
        std::fs::remove_file(folders.host("src/x")).unwrap();
        assert_eq!(folders.compare(&none(), false).0, ["new"]);
    }

    #[test]
    fn what_also_changed_on_this_host_is_a_conflict() {
        let folders = Folders::new();
        for path in ["a", "new", "dir/x"] {
            std::fs::create_dir_all(folders.guest("dir")).unwrap();
            std::fs::write(folders.guest(path), "guest").unwrap();
        }
        std::fs::remove_file(folders.guest("b")).unwrap();
        std::fs::write(folders.host("a"), "host").unwrap();
        std::fs::write(folders.host("b"), "host").unwrap();
        std::fs::write(folders.host("new"), "host").unwrap();
        symlink("/etc", folders.host("dir")).unwrap();

        let (changes, refusals) = folders.compare(&none(), false);
        assert!(changes.is_empty(), "{changes:?}");
        let reasons = [
            ("a", "it changed on this host, too"),
            ("b", "it changed on this host, too"),
            ("dir", "something else exists there on this host"),
            ("dir/x", "its directory is not taken over"),
            ("new", "something else exists there on this host"),
        ];
        assert_eq!(refusals, reasons.map(|(path, why)| (path.to_owned(), why)));
    }

    #[test]
    fn git_names_and_cases_are_refused() {
        let folders = Folders::new();
        std::fs::write(folders.guest(".git/config"), "[core]").unwrap();
        std::fs::write(folders.guest(".git/hooks/pre-commit"), "#!").unwrap();
        std::fs::create_dir_all(folders.guest("sub/.Git")).unwrap();
        std::fs::write(folders.guest("A"), "").unwrap();
        std::fs::create_dir(folders.guest("SRC")).unwrap();
        std::fs::write(folders.guest("SRC/z"), "").unwrap();
        std::fs::write(folders.guest("new"), "").unwrap();
        std::fs::write(folders.guest("NEW"), "").unwrap();
        std::fs::write(folders.guest("evil\n\x1b[2J"), "").unwrap();

        let (changes, refusals) = folders.compare(&none(), false);
        assert_eq!(changes, ["sub"]);
        let paths: Vec<_> = refusals.iter().map(|(path, _)| path.as_str()).collect();
        assert_eq!(
            paths,
            [
                ".git/config",
                ".git/hooks/pre-commit",
                "A",
                "NEW",
                "SRC",
                "SRC/z",
                "evil\n\x1b[2J",
                "new",
                "sub/.Git"
            ]
        );

        let (changes, _) = folders.compare(&none(), true);
        assert_eq!(changes[..2], [".git/config", ".git/hooks/pre-commit"]);
    }

    #[test]
    fn what_could_not_be_copied_is_not_deleted() {
        let folders = Folders::new();
        std::fs::remove_file(folders.guest("a")).unwrap();
        std::fs::remove_file(folders.guest("b")).unwrap();
        std::fs::remove_dir_all(folders.guest("src")).unwrap();

        let left_out = skipped(&["a", "src"], 2);
        assert_eq!(
            folders.compare(&left_out, false),
            (vec!["b".into()], vec![])
        );

        // Of some left-out files the names are not known.
        let (changes, refusals) = folders.compare(&skipped(&["a", "src"], 3), false);
        assert!(changes.is_empty());
        assert_eq!(refusals.len(), 1);
        assert!(refusals[0].1.contains("too many files"));
    }

    #[test]
    fn a_file_and_a_directory_can_be_swapped() {
        let folders = Folders::new();
        std::fs::remove_file(folders.guest("a")).unwrap();
        std::fs::create_dir(folders.guest("a")).unwrap();
        std::fs::write(folders.guest("a/x"), "").unwrap();
        std::fs::remove_dir_all(folders.guest("src")).unwrap();
        symlink("a", folders.guest("src")).unwrap();

        let (changes, refusals) = folders.compare(&none(), false);
        assert_eq!(changes, ["a", "a/x", "src", "src/x", "src/y"]);
        assert!(refusals.is_empty());
    }
}
