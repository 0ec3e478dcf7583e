//! Writes into an unpacked tree without leaving it.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};

use crate::Error;

/// The maximum number of links followed on the way to one file.
const MAX_LINKS: usize = 8;
/// Set-user-ID and set-group-ID bits. No program in the guest gains rights by being started.
const SET_ID: u32 = 0o6000;

/// An unpacked root file system. Its absolute links point into the host, so they are never followed there.
pub(crate) struct Tree<'a>(pub(crate) &'a Path);

impl Tree<'_> {
    /// Writes a file, replacing any existing file of that name. Missing directories are created.
    pub(crate) fn write_file(&self, path: &str, mode: u32, contents: &[u8]) -> Result<(), Error> {
        let target = self.vacate_path(path)?;
        fs::write(&target, contents).map_err(Error::io("write", &target))?;
        set_mode(&target, mode)
    }

    /// Moves a host file into the tree.
    pub(crate) fn move_file(&self, path: &str, mode: u32, from: &Path) -> Result<(), Error> {
        let target = self.vacate_path(path)?;
        fs::rename(from, &target).map_err(Error::io("move", from))?;
        set_mode(&target, mode)
    }

    /// Creates a symbolic link.
    pub(crate) fn symlink(&self, path: &str, to: &str) -> Result<(), Error> {
        let target = self.vacate_path(path)?;
        std::os::unix::fs::symlink(to, &target).map_err(Error::io("link", &target))
    }

    /// Creates a directory, if it does not exist, and sets its mode.
    pub(crate) fn create_dir(&self, path: &str, mode: u32) -> Result<(), Error> {
        let target = self.resolve_dir(Path::new(path))?;
        set_mode(&target, mode)
    }

    /// Appends to an existing file of the tree.
    pub(crate) fn append(&self, path: &str, text: &str) -> Result<(), Error> {
        let target = self.0.join(path);
        let mut all = fs::read_to_string(&target).map_err(Error::io("read", &target))?;
        all.push_str(text);
        self.write_file(path, 0o644, all.as_bytes())
    }

    /// Removes a file or a directory with its contents, if it exists.
    pub(crate) fn remove(&self, path: &str) -> Result<(), Error> {
        remove(&self.0.join(path))
    }

    /// Removes everything in a directory, if it exists.
    pub(crate) fn clear_dir(&self, path: &str) -> Result<(), Error> {
        let directory = self.0.join(path);
        let Ok(entries) = fs::read_dir(&directory) else {
            return Ok(());
        };

        for entry in entries {
            remove(&entry.map_err(Error::io("read", &directory))?.path())?;
        }

        Ok(())
    }

    /// Clears set-ID bits, makes everything readable for its owner (the user who builds the image), and
    /// passes each file to `visit`.
    pub(crate) fn fix_permissions(
        &self,
        visit: &mut dyn FnMut(&Path) -> Result<(), Error>,
    ) -> Result<(), Error> {
        fix_permissions(self.0, visit)
    }

    /// Returns the path for a new file: its directory exists, and no file has its name.
    fn vacate_path(&self, path: &str) -> Result<PathBuf, Error> {
        let path = Path::new(path);
        let parent = self.resolve_dir(path.parent().unwrap_or(Path::new("")))?;
        let target = parent.join(path.file_name().unwrap_or_default());
        remove(&target)?;
        Ok(target)
    }

    /// Returns the real path of a directory, creating missing components. Relative links (`lib` → `usr/lib`)
    /// are followed inside the tree; absolute links are resolved as the guest would resolve them.
    fn resolve_dir(&self, path: &Path) -> Result<PathBuf, Error> {
        let outside = |reason| Error::Inconsistent {
            item: "root file system",
            reason,
        };

        // The components still to resolve, the directory reached so far, and the links followed.
        let mut rest: Vec<PathBuf> = components(path);
        let (mut at, mut links) = (self.0.to_path_buf(), 0);
        while let Some(name) = rest.pop() {
            if name == Path::new("..") {
                return Err(outside(format!("`{}` contains `..`", path.display())));
            }

            let next = at.join(&name);
            match fs::symlink_metadata(&next) {
                Ok(found) if found.is_symlink() => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(outside(format!(
                            "`{}` leads through too many links",
                            path.display()
                        )));
                    }

                    let to = fs::read_link(&next).map_err(Error::io("read", &next))?;
                    // The guest's root, not the host's.
                    if to.is_absolute() {
                        at = self.0.to_path_buf();
                    }

                    rest.extend(components(&to));
                }
                Ok(_) => at = next,
                Err(e) if e.kind() == ErrorKind::NotFound => {
                    fs::create_dir(&next).map_err(Error::io("create", &next))?;
                    set_mode(&next, 0o755)?;
                    at = next;
                }
                Err(e) => return Err(Error::io("inspect", &next)(e)),
            }
        }

        Ok(at)
    }
}

/// Returns the components of a path, last first.
fn components(path: &Path) -> Vec<PathBuf> {
    let components = path.components().rev().filter_map(|c| match c {
        Component::Normal(name) => Some(PathBuf::from(name)),
        Component::ParentDir => Some(PathBuf::from("..")),
        _ => None,
    });
    components.collect()
}

fn fix_permissions(
    directory: &Path,
    visit: &mut dyn FnMut(&Path) -> Result<(), Error>,
) -> Result<(), Error> {
    for entry in fs::read_dir(directory).map_err(Error::io("read", directory))? {
        let entry = entry.map_err(Error::io("read", directory))?;
        let path = entry.path();
        let found = entry.metadata().map_err(Error::io("inspect", directory))?;
        // A link has no separate mode, and its target is visited by its own name.
        if found.is_symlink() {
            continue;
        }

        let readable = if found.is_dir() { 0o700 } else { 0o400 };
        let before = found.permissions().mode();
        let after = before & !SET_ID | readable;
        if before != after {
            set_mode(&path, after & 0o7777)?;
        }

        if found.is_dir() {
            fix_permissions(&path, visit)?;
        } else {
            visit(&path)?;
        }
    }

    Ok(())
}

fn set_mode(path: &Path, mode: u32) -> Result<(), Error> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .map_err(Error::io("set the mode of", path))
}

fn remove(path: &Path) -> Result<(), Error> {
    match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(_) => Ok(()),
    }
    .map_err(Error::io("remove", path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn absolute_links_do_not_leave_the_tree() {
        let directory = tempfile::tempdir().unwrap();
        let (root, host) = (directory.path().join("root"), directory.path().join("host"));
        fs::create_dir_all(root.join("usr/lib")).unwrap();
        fs::create_dir(&host).unwrap();
        symlink(&host, root.join("out")).unwrap();
        symlink("usr/lib", root.join("lib")).unwrap();
        symlink(host.join("secret"), root.join("etc-file")).unwrap();
        symlink("..", root.join("up")).unwrap();
        let tree = Tree(&root);
        tree.write_file("out/file", 0o644, b"x").unwrap();
        tree.write_file("lib/a/b", 0o755, b"y").unwrap();
        tree.write_file("etc-file", 0o644, b"z").unwrap();
        assert_eq!(fs::read_dir(&host).unwrap().count(), 0);
        assert_eq!(fs::read(root.join("usr/lib/a/b")).unwrap(), b"y");
        assert_eq!(fs::read(root.join("etc-file")).unwrap(), b"z");
        assert!(tree.write_file("up/file", 0o644, b"x").is_err());
    }

    #[test]
    fn fixing_permissions_clears_set_id_bits_and_visits_every_file() {
        let directory = tempfile::tempdir().unwrap();
        let tree = Tree(directory.path());
        tree.write_file("bin/su", 0o4755, b"x").unwrap();
        tree.write_file("etc/shadow", 0o000, b"x").unwrap();
        tree.create_dir("tmp", 0o1777).unwrap();
        let mut seen = Vec::new();
        tree.fix_permissions(&mut |path| {
            seen.push(path.file_name().unwrap().to_owned());
            Ok(())
        })
        .unwrap();
        seen.sort();
        assert_eq!(seen, ["shadow", "su"]);
        let mode = |path: &str| {
            fs::metadata(directory.path().join(path))
                .unwrap()
                .permissions()
                .mode()
                & 0o7777
        };

        assert_eq!(
            (mode("bin/su"), mode("etc/shadow"), mode("tmp")),
            (0o755, 0o400, 0o1777)
        );
    }
}
