use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use fumehood_sys::host::{MountRestriction, restrict_mounts};
use rustix::fs::{CWD, Mode, OFlags, mkdirat, openat};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags,
    OpenTreeFlags, UnmountFlags, fsconfig_create, fsconfig_set_string, fsmount, fsopen,
    mount_change, move_mount, open_tree, unmount,
};
use rustix::process::{fchdir, pivot_root};

use crate::because::Because;

/// Bytes of the new root itself: directories and empty files that others are mounted on.
const ROOT_BYTES: &str = "1m";
/// Directories and files in it; QEMU has some fifty libraries.
const ROOT_FILES: &str = "1024";
/// Where QEMU finds its own descriptors.
const PROC: &str = "proc";
/// Where the new root hangs for a moment: a directory that every host has.
const FOR_A_MOMENT: &str = "/proc";

/// Leaves the host's tree for a root that holds these files and devices, and a `/proc` of this process's
/// own namespace. Nothing in it can be written but the devices.
pub(crate) fn enter(files: &[PathBuf], devices: &[PathBuf]) -> Result<(), String> {
    // What is mounted from now on is seen nowhere else.
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", private).because("mounts cannot be made private")?;
    let processes = file_system(PROC, &[("subset", "pid")])
        .because("processes of a namespace of its own cannot be mounted")?;
    // All are looked up in the old root before the new one is there.
    let files = trees(files)?;
    let devices = trees(devices)?;
    let bounds = [
        ("size", ROOT_BYTES),
        ("nr_inodes", ROOT_FILES),
        ("mode", "0755"),
    ];
    let root = file_system("tmpfs", &bounds).because("no file system for a new root")?;
    let root = Root::hang(root).because("the new root cannot be mounted")?;
    let places = files.iter().chain(&devices).map(|(_, path)| *path);
    root.make_places(places)?;
    root.mount_all(&files)?;
    root.directory(Path::new(PROC)).because(PROC)?;
    root.mount(&processes, Path::new(PROC)).because(PROC)?;
    // Devices come after: the rest of the root has none.
    restrict(&root.tree, MountRestriction::WritingAndDevices)?;
    for (tree, _) in &devices {
        restrict(tree, MountRestriction::WritingAndPrograms)?;
    }
    root.mount_all(&devices)?;
    root.become_root().because("the root cannot be changed")
}

/// A mounted file, and where it belongs below a root.
type Tree<'a> = (OwnedFd, &'a Path);

fn trees(paths: &[PathBuf]) -> Result<Vec<Tree<'_>>, String> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let each = paths.iter();
    each.map(|path| {
        let tree = open_tree(CWD, path, flags).because(path.display())?;
        Ok((tree, path.strip_prefix("/").unwrap_or(path)))
    })
    .collect()
}

fn restrict(tree: &OwnedFd, without: MountRestriction) -> Result<(), String> {
    restrict_mounts(tree.as_fd(), without).because("mounts cannot be made read-only")
}

fn file_system(name: &str, options: &[(&str, &str)]) -> rustix::io::Result<OwnedFd> {
    let context = fsopen(name, FsOpenFlags::FSOPEN_CLOEXEC)?;
    for (key, value) in options {
        fsconfig_set_string(context.as_fd(), *key, *value)?;
    }
    fsconfig_create(context.as_fd())?;
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
    fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)
}

/// The root that is to be.
struct Root {
    tree: OwnedFd,
}

impl Root {
    fn hang(tree: OwnedFd) -> rustix::io::Result<Self> {
        let from_descriptor = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        move_mount(&tree, "", CWD, FOR_A_MOMENT, from_descriptor)?;
        Ok(Self { tree })
    }

    fn directory(&self, path: &Path) -> rustix::io::Result<()> {
        mkdirat(&self.tree, path, Mode::from_raw_mode(0o755))
    }

    fn mount(&self, tree: &OwnedFd, path: &Path) -> rustix::io::Result<()> {
        let from_descriptor = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        move_mount(tree, "", &self.tree, path, from_descriptor)
    }

    fn mount_all(&self, trees: &[Tree<'_>]) -> Result<(), String> {
        let mut each = trees.iter();
        each.try_for_each(|(tree, path)| self.mount(tree, path).because(path.display()))
    }

    /// Makes the empty files that others are mounted on, and the directories above them.
    fn make_places<'a>(&self, paths: impl Iterator<Item = &'a Path>) -> Result<(), String> {
        let mut made = BTreeSet::new();
        for path in paths {
            let mut above: Vec<&Path> = path.ancestors().skip(1).collect();
            // The last is the root itself.
            above.pop();
            for directory in above.into_iter().rev() {
                if made.insert(directory) {
                    self.directory(directory).because(directory.display())?;
                }
            }
            let file = OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC;
            openat(&self.tree, path, file, Mode::from_raw_mode(0o444)).because(path.display())?;
        }
        Ok(())
    }

    /// Moves in, and lets go of the old root, which nobody in this namespace can reach then.
    fn become_root(self) -> io::Result<()> {
        fchdir(&self.tree)?;
        pivot_root(".", ".")?;
        // The old one lies over the new one now.
        unmount(".", UnmountFlags::DETACH)?;
        rustix::process::chdir("/")?;
        Ok(())
    }
}
