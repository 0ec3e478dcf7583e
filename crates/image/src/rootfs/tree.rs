//! Writing into an unpacked tree without leaving it.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};

use crate::Error;

/// Links followed on the way to one file.
const MAX_LINKS: usize = 8;
/// Set-user-ID and set-group-ID: nothing in the guest gains rights by being started.
const SET_ID: u32 = 0o6000;

/// An unpacked root file system. Its absolute links point into the host, so none is followed.
pub(crate) struct Tree<'a>(pub(crate) &'a Path);

impl Tree<'_> {
    /// Writes a file, in place of whatever has that name; missing directories are made.
    pub(crate) fn put(&self, path: &str, mode: u32, contents: &[u8]) -> Result<(), Error> {
        let target = self.place(path)?;
        fs::write(&target, contents).map_err(Error::io("write", &target))?;
        set_mode(&target, mode)
    }

    /// Moves a file of the host into the tree.
    pub(crate) fn take(&self, path: &str, mode: u32, from: &Path) -> Result<(), Error> {
        let target = self.place(path)?;
        fs::rename(from, &target).map_err(Error::io("move", from))?;
        set_mode(&target, mode)
    }

    /// Makes a link.
    pub(crate) fn link(&self, path: &str, to: &str) -> Result<(), Error> {
        let place = self.place(path)?;
        std::os::unix::fs::symlink(to, &place).map_err(Error::io("link", &place))
    }

    /// Makes a directory, if it is not there.
    pub(crate) fn directory(&self, path: &str, mode: u32) -> Result<(), Error> {
        let target = self.inside(Path::new(path))?;
        set_mode(&target, mode)
    }

    /// Appends to a file of the tree.
    pub(crate) fn append(&self, path: &str, text: &str) -> Result<(), Error> {
        let target = self.0.join(path);
        let mut all = fs::read_to_string(&target).map_err(Error::io("read", &target))?;
        all.push_str(text);
        self.put(path, 0o644, all.as_bytes())
    }

    /// Removes a file or a directory with all in it, if it is there.
    pub(crate) fn remove(&self, path: &str) -> Result<(), Error> {
        remove(&self.0.join(path))
    }

    /// Removes everything in a directory, if it is there.
    pub(crate) fn empty(&self, path: &str) -> Result<(), Error> {
        let directory = self.0.join(path);
        let Ok(entries) = fs::read_dir(&directory) else {
            return Ok(());
        };
        for entry in entries {
            remove(&entry.map_err(Error::io("read", &directory))?.path())?;
        }
        Ok(())
    }

    /// Takes set-ID bits away, makes everything readable for its owner (who builds the image), and hands
    /// each file to `see`.
    pub(crate) fn sweep(
        &self,
        see: &mut dyn FnMut(&Path) -> Result<(), Error>,
    ) -> Result<(), Error> {
        sweep(self.0, see)
    }

    /// Where a new file is to be written: its directory exists and nothing has its name.
    fn place(&self, path: &str) -> Result<PathBuf, Error> {
        let path = Path::new(path);
        let parent = self.inside(path.parent().unwrap_or(Path::new("")))?;
        let target = parent.join(path.file_name().unwrap_or_default());
        remove(&target)?;
        Ok(target)
    }

    /// The real place of a directory, made where it is missing. Relative links (`lib` → `usr/lib`) are
    /// followed inside the tree; absolute ones are read as the guest would read them.
    fn inside(&self, path: &Path) -> Result<PathBuf, Error> {
        let outside = |why| Error::Inconsistent {
            what: "root file system",
            why,
        };
        let mut rest: Vec<PathBuf> = components(path);
        let (mut at, mut links) = (self.0.to_path_buf(), 0);
        while let Some(name) = rest.pop() {
            if name == Path::new("..") {
                return Err(outside(format!("`{}` leads upwards", path.display())));
            }
            let next = at.join(&name);
            match fs::symlink_metadata(&next) {
                Ok(found) if found.is_symlink() => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(outside(format!("`{}` has too many links", path.display())));
                    }
                    let to = fs::read_link(&next).map_err(Error::io("read", &next))?;
                    if to.is_absolute() {
                        at = self.0.to_path_buf();
                    }
                    rest.extend(components(&to));
                }
                Ok(_) => at = next,
                Err(e) if e.kind() == ErrorKind::NotFound => {
                    fs::create_dir(&next).map_err(Error::io("make", &next))?;
                    set_mode(&next, 0o755)?;
                    at = next;
                }
                Err(e) => return Err(Error::io("inspect", &next)(e)),
            }
        }
        Ok(at)
    }
}

/// The names of a path, last first.
fn components(path: &Path) -> Vec<PathBuf> {
    let names = path.components().filter_map(|c| match c {
        Component::Normal(name) => Some(PathBuf::from(name)),
        Component::ParentDir => Some(PathBuf::from("..")),
        _ => None,
    });
    let mut names: Vec<PathBuf> = names.collect();
    names.reverse();
    names
}

fn sweep(directory: &Path, see: &mut dyn FnMut(&Path) -> Result<(), Error>) -> Result<(), Error> {
    for entry in fs::read_dir(directory).map_err(Error::io("read", directory))? {
        let entry = entry.map_err(Error::io("read", directory))?;
        let (path, found) = (
            entry.path(),
            entry.metadata().map_err(Error::io("inspect", directory))?,
        );
        if found.is_symlink() {
            continue;
        }
        let readable = if found.is_dir() { 0o700 } else { 0o400 };
        let (before, after) = (
            found.permissions().mode(),
            found.permissions().mode() & !SET_ID | readable,
        );
        if before != after {
            set_mode(&path, after & 0o7777)?;
        }
        if found.is_dir() {
            sweep(&path, see)?;
        } else {
            see(&path)?;
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
        tree.put("out/file", 0o644, b"x").unwrap();
        tree.put("lib/a/b", 0o755, b"y").unwrap();
        tree.put("etc-file", 0o644, b"z").unwrap();
        assert_eq!(fs::read_dir(&host).unwrap().count(), 0);
        assert_eq!(fs::read(root.join("usr/lib/a/b")).unwrap(), b"y");
        assert_eq!(fs::read(root.join("etc-file")).unwrap(), b"z");
        assert!(tree.put("up/file", 0o644, b"x").is_err());
    }

    #[test]
    fn a_sweep_takes_set_id_bits_and_sees_every_file() {
        let directory = tempfile::tempdir().unwrap();
        let tree = Tree(directory.path());
        tree.put("bin/su", 0o4755, b"x").unwrap();
        tree.put("etc/shadow", 0o000, b"x").unwrap();
        tree.directory("tmp", 0o1777).unwrap();
        let mut seen = Vec::new();
        tree.sweep(&mut |path| {
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
