use std::collections::BTreeSet;
use std::fmt::{self, Display};
use std::fs::Metadata;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use fumehood_sys::host::{MountRestriction, restrict_mounts};
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, chownat, mkdirat, mknodat, openat};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags,
    OpenTreeFlags, UnmountFlags, fsconfig_create, fsconfig_set_string, fsmount, fsopen,
    mount_change, move_mount, open_tree, unmount,
};
use rustix::process::{Gid, Uid, fchdir, pivot_root};

/// The size of the new root itself: directories, and empty files as mount points.
const ROOT_BYTES: &str = "1m";
/// The maximum number of directories and files in it; QEMU has some fifty libraries.
const ROOT_FILES: &str = "1024";
/// The directory where QEMU finds its own descriptors.
const PROC: &str = "proc";
/// The temporary mount point of the new root: a directory that every host has.
const TEMPORARY_MOUNT_POINT: &str = "/proc";

/// The context of an error: this host does not let root create nodes of devices.
#[derive(Debug)]
pub(crate) struct OwnDeviceError(PathBuf);

impl Display for OwnDeviceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "cannot create a node of {} for the user of QEMU",
            self.0.display()
        )
    }
}

/// Changes to a new root that contains only these files and devices, and with `proc` a `/proc` of this process's namespace.
/// Nothing in it can be written except the devices. A device that the user with these ids (user, group) may not use
/// belongs to that user in the new root.
///
/// # Errors
/// An [`OwnDeviceError`] if such a device cannot be created.
pub(crate) fn enter(
    files: &[PathBuf],
    devices: &[PathBuf],
    proc: bool,
    ids: Option<(u32, u32)>,
) -> anyhow::Result<()> {
    // Mounts from now on are invisible in other namespaces.
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", private).context("cannot make mounts private")?;
    let proc = proc.then(|| create_file_system(PROC, &[("subset", "pid")]));
    let proc = proc
        .transpose()
        .context("cannot create a /proc of the new namespace")?;

    // All paths are resolved in the old root, before the new one exists.
    let files = clone_mounts(files)?;
    let (own, shared) = split_devices(devices, ids)?;
    let mut devices = clone_mounts(shared)?;

    let options = [
        ("size", ROOT_BYTES),
        ("nr_inodes", ROOT_FILES),
        ("mode", "0755"),
    ];
    let root = create_file_system_with_devices("tmpfs", &options)
        .context("cannot create a file system for the new root")?;
    let root = NewRoot::mount_temporarily(root).context("cannot mount the new root")?;

    let mount_points = files.iter().chain(&devices).map(|(_, path)| *path);
    root.create_mount_points(mount_points)?;
    devices.extend(root.create_devices(own)?);
    root.mount_all(&files)?;
    if let Some(proc) = proc {
        root.create_directory(Path::new(PROC)).context(PROC)?;
        root.mount(&proc, Path::new(PROC)).context(PROC)?;
    }

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

const CLONE_MOUNT: OpenTreeFlags =
    OpenTreeFlags::OPEN_TREE_CLONE.union(OpenTreeFlags::OPEN_TREE_CLOEXEC);

fn clone_mounts<'a>(paths: impl IntoIterator<Item = &'a PathBuf>) -> anyhow::Result<Vec<Tree<'a>>> {
    let clone = |path: &'a PathBuf| {
        let tree = open_tree(CWD, path, CLONE_MOUNT).with_context(|| path.display().to_string())?;
        Ok((tree, relative(path)))
    };
    paths.into_iter().map(clone).collect()
}

fn relative(path: &Path) -> &Path {
    path.strip_prefix("/").unwrap_or(path)
}

/// A device that belongs to the user of the program.
struct OwnDevice<'a> {
    path: &'a PathBuf,
    number: u64,
    ids: (u32, u32),
}

/// Separates the devices that the user with these ids may not use from the others.
fn split_devices(
    devices: &[PathBuf],
    ids: Option<(u32, u32)>,
) -> anyhow::Result<(Vec<OwnDevice<'_>>, Vec<&PathBuf>)> {
    let (mut own, mut shared) = (Vec::new(), Vec::new());
    for path in devices {
        let metadata = path
            .metadata()
            .with_context(|| path.display().to_string())?;
        match ids.filter(|ids| !may_use(*ids, &metadata)) {
            Some(ids) => own.push(OwnDevice {
                path,
                number: metadata.rdev(),
                ids,
            }),
            None => shared.push(path),
        }
    }

    Ok((own, shared))
}

/// Returns whether a user without privileges and other groups may read and write a file.
fn may_use((uid, gid): (u32, u32), file: &Metadata) -> bool {
    const READ_WRITE: u32 = 0o6;
    let shift = if file.uid() == uid {
        6
    } else if file.gid() == gid {
        3
    } else {
        0
    };

    file.mode() >> shift & READ_WRITE == READ_WRITE
}

fn restrict(tree: &OwnedFd, restriction: MountRestriction) -> anyhow::Result<()> {
    restrict_mounts(tree.as_fd(), restriction).context("cannot make mounts read-only")
}

/// Creates a file system of this type, which is not mounted yet.
fn create_file_system(name: &str, options: &[(&str, &str)]) -> rustix::io::Result<OwnedFd> {
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
    configure_file_system(name, options, attributes)
}

/// As [`create_file_system`]; devices in it can be used until it is restricted.
fn create_file_system_with_devices(
    name: &str,
    options: &[(&str, &str)],
) -> rustix::io::Result<OwnedFd> {
    configure_file_system(name, options, MountAttrFlags::MOUNT_ATTR_NOSUID)
}

fn configure_file_system(
    name: &str,
    options: &[(&str, &str)],
    attributes: MountAttrFlags,
) -> rustix::io::Result<OwnedFd> {
    let context = fsopen(name, FsOpenFlags::FSOPEN_CLOEXEC)?;
    for (key, value) in options {
        fsconfig_set_string(context.as_fd(), *key, *value)?;
    }

    fsconfig_create(context.as_fd())?;
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

    /// Creates devices that belong to a user, and returns mounts of them, which later restrictions of the root do not
    /// concern.
    fn create_devices<'a>(&self, devices: Vec<OwnDevice<'a>>) -> anyhow::Result<Vec<Tree<'a>>> {
        let create = |device: OwnDevice<'a>| {
            let path = relative(device.path);
            let failed = || OwnDeviceError(device.path.clone());
            self.create_device(path, &device).with_context(failed)?;
            let tree = open_tree(&self.tree, path, CLONE_MOUNT).with_context(failed)?;
            Ok((tree, path))
        };
        devices.into_iter().map(create).collect()
    }

    /// The directory of the device exists, since the null device is beside it.
    fn create_device(&self, path: &Path, device: &OwnDevice<'_>) -> rustix::io::Result<()> {
        let (uid, gid) = device.ids;
        let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
        let mode = Mode::RUSR | Mode::WUSR;
        mknodat(
            &self.tree,
            path,
            FileType::CharacterDevice,
            mode,
            device.number,
        )?;
        chownat(
            &self.tree,
            path,
            Some(uid),
            Some(gid),
            AtFlags::SYMLINK_NOFOLLOW,
        )
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

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// A file of this user with this mode, which stands for a device. The caller removes it.
    fn file(mode: u32) -> (PathBuf, Metadata) {
        let name = format!("fumehood-launcher-{}-{mode:o}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::write(&path, "").unwrap();
        std::fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        let metadata = path.metadata().unwrap();
        (path, metadata)
    }

    #[test]
    fn only_the_bits_of_the_most_specific_class_count() {
        let cases = [
            (0o600, [true, false, false]),
            (0o660, [true, true, false]),
            (0o606, [true, false, true]),
            (0o066, [false, true, true]),
            (0o444, [false, false, false]),
        ];
        for (mode, expected) in cases {
            let (path, metadata) = file(mode);
            std::fs::remove_file(path).unwrap();
            let (uid, gid) = (metadata.uid(), metadata.gid());
            let users = [(uid, gid + 1), (uid + 1, gid), (uid + 1, gid + 1)];
            assert_eq!(
                users.map(|ids| may_use(ids, &metadata)),
                expected,
                "{mode:o}"
            );
        }
    }

    #[test]
    fn devices_that_the_user_may_not_use_are_created() {
        let (private, metadata) = file(0o640);
        let ids = (metadata.uid() + 1, metadata.gid());
        let devices = [PathBuf::from("/dev/null"), private];

        let split = split_devices(&devices, Some(ids)).unwrap();
        let all_shared = split_devices(&devices, None).unwrap();
        std::fs::remove_file(&devices[1]).unwrap();

        let own: Vec<_> = split.0.iter().map(|own| (own.path, own.ids)).collect();
        assert_eq!(own, [(&devices[1], ids)]);
        assert_eq!(split.1, [&devices[0]]);
        assert!(all_shared.0.is_empty() && all_shared.1.len() == 2);
    }
}
