use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use anyhow::Context;
use fumehood_sys::host::{MountRestriction, restrict_mounts};
use rustix::fs::{CWD, Mode, OFlags, mkdirat, openat};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags,
    OpenTreeFlags, UnmountFlags, fsconfig_create, fsconfig_set_string, fsmount, fsopen,
    mount_change, move_mount, open_tree, unmount,
};
use rustix::process::{fchdir, pivot_root};

/// The size of the new root itself: directories, and empty files as mount points.
const ROOT_BYTES: &str = "1m";
/// The maximum number of directories and files in it; QEMU has some fifty libraries.
const ROOT_FILES: &str = "1024";
/// The directory where QEMU finds its own descriptors.
const PROC: &str = "proc";
/// The temporary mount point of the new root: a directory that every host has.
const TEMPORARY_MOUNT_POINT: &str = "/proc";

/// Changes to a new root that contains only these files and devices, and a `/proc` of this process's namespace.
/// Nothing in it can be written except the devices.
pub(crate) fn enter(files: &[PathBuf], devices: &[PathBuf]) -> anyhow::Result<()> {
    // Mounts from now on are invisible in other namespaces.
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", private).context("cannot make mounts private")?;
    let proc = create_file_system(PROC, &[("subset", "pid")])
        .context("cannot create a /proc of the new namespace")?;

    // All paths are resolved in the old root, before the new one exists.
    let files = clone_mounts(files)?;
    let devices = clone_mounts(devices)?;

    let options = [
        ("size", ROOT_BYTES),
        ("nr_inodes", ROOT_FILES),
        ("mode", "0755"),
    ];
    let root = create_file_system("tmpfs", &options)
        .context("cannot create a file system for the new root")?;
    let root = NewRoot::mount_temporarily(root).context("cannot mount the new root")?;

    let mount_points = files.iter().chain(&devices).map(|(_, path)| *path);
    root.create_mount_points(mount_points)?;
    root.mount_all(&files)?;
    root.create_directory(Path::new(PROC)).context(PROC)?;
    root.mount(&proc, Path::new(PROC)).context(PROC)?;

    // Devices are mounted after the restriction, since the rest of the root allows none.
    restrict(&root.tree, MountRestriction::ReadOnlyNoDevices)?;
    for (tree, _) in &devices {
        restrict(tree, MountRestriction::ReadOnlyNoExecution)?;
    }
    root.mount_all(&devices)?;

    root.pivot().context("cannot change the root")
}

/// A cloned mount of a file, and its path relative to the root.
type Tree<'a> = (OwnedFd, &'a Path);

fn clone_mounts<'a>(paths: &'a [PathBuf]) -> anyhow::Result<Vec<Tree<'a>>> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let clone = |path: &'a PathBuf| {
        let tree = open_tree(CWD, path, flags).with_context(|| path.display().to_string())?;
        Ok((tree, path.strip_prefix("/").unwrap_or(path)))
    };
    paths.iter().map(clone).collect()
}

fn restrict(tree: &OwnedFd, restriction: MountRestriction) -> anyhow::Result<()> {
    restrict_mounts(tree.as_fd(), restriction).context("cannot make mounts read-only")
}

/// Creates a file system of this type, which is not mounted yet.
fn create_file_system(name: &str, options: &[(&str, &str)]) -> rustix::io::Result<OwnedFd> {
    let context = fsopen(name, FsOpenFlags::FSOPEN_CLOEXEC)?;
    for (key, value) in options {
        fsconfig_set_string(context.as_fd(), *key, *value)?;
    }

    fsconfig_create(context.as_fd())?;
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
    fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)
}

/// The new root, before this process changes to it.
struct NewRoot {
    tree: OwnedFd,
}

impl NewRoot {
    fn mount_temporarily(tree: OwnedFd) -> rustix::io::Result<Self> {
        let from_descriptor = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        move_mount(&tree, "", CWD, TEMPORARY_MOUNT_POINT, from_descriptor)?;
        Ok(Self { tree })
    }

    fn create_directory(&self, path: &Path) -> rustix::io::Result<()> {
        mkdirat(&self.tree, path, Mode::from_raw_mode(0o755))
    }

    fn mount(&self, tree: &OwnedFd, path: &Path) -> rustix::io::Result<()> {
        let from_descriptor = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        move_mount(tree, "", &self.tree, path, from_descriptor)
    }

    fn mount_all(&self, trees: &[Tree<'_>]) -> anyhow::Result<()> {
        for (tree, path) in trees {
            self.mount(tree, path)
                .with_context(|| path.display().to_string())?;
        }
        Ok(())
    }

    /// Creates empty files as mount points, and their parent directories.
    fn create_mount_points<'a>(&self, paths: impl Iterator<Item = &'a Path>) -> anyhow::Result<()> {
        let mut created = BTreeSet::new();
        for path in paths {
            let mut parents: Vec<&Path> = path.ancestors().skip(1).collect();
            // The last one is the root itself.
            parents.pop();
            for directory in parents.into_iter().rev() {
                if created.insert(directory) {
                    self.create_directory(directory)
                        .with_context(|| directory.display().to_string())?;
                }
            }

            let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC;
            openat(&self.tree, path, flags, Mode::from_raw_mode(0o444))
                .with_context(|| path.display().to_string())?;
        }
        Ok(())
    }

    /// Changes to the new root and detaches the old one, which is then unreachable in this namespace.
    fn pivot(self) -> io::Result<()> {
        fchdir(&self.tree)?;
        pivot_root(".", ".")?;
        // The old root is now mounted over the new one.
        unmount(".", UnmountFlags::DETACH)?;
        rustix::process::chdir("/")?;
        Ok(())
    }
}
