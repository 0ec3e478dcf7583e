//! Full disks: a real one of one megabyte, where the test may mount it.

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use super::*;

/// A small file system in memory that is unmounted on drop.
struct Disk(tempfile::TempDir);

impl Disk {
    fn new() -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let options = c"size=1m,mode=700";

        match mount(
            "none",
            directory.path(),
            "tmpfs",
            MountFlags::empty(),
            options,
        ) {
            Ok(()) => Some(Self(directory)),
            Err(error) => {
                println!("skipped: a disk cannot be mounted here ({error})");
                None
            }
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        unmount(self.0.path(), UnmountFlags::DETACH).unwrap();
    }
}

fn two_megabytes() -> File {
    let file = memory_file();
    file.write_all_at(&vec![1; 2 << 20], 0).unwrap();
    file
}

#[test]
fn too_little_free_space_is_reported_before_writing() {
    let Some(disk) = Disk::new() else { return };
    let templates = open_store(disk.0.path());
    let writer = templates.create(&key("python")).unwrap().unwrap();
    let error = writer
        .finish(inputs("python"), &two_megabytes(), b"")
        .unwrap_err();

    assert!(
        matches!(error, Error::InsufficientSpace { available, required, .. } if required > 2 << 20 && available <= 1 << 20),
        "{error}"
    );

    assert_eq!(fs::read_dir(templates.cache.root()).unwrap().count(), 1);
}

#[test]
fn a_disk_that_fills_up_is_reported_and_nothing_remains() {
    let Some(disk) = Disk::new() else { return };
    let templates = open_store(disk.0.path());
    let writer = templates.create(&key("python")).unwrap().unwrap();
    // The same as `finish`, but without the check of the free space.
    let written = writer.write(inputs("python"), &two_megabytes(), b"");
    let error = written
        .unwrap_err()
        .or_disk_full(templates.cache.root(), 5_000_000);
    assert!(matches!(error, Error::DiskFull { .. }), "{error}");
    let text = error.to_string();
    assert!(text.contains("is full") && text.contains("5 MB"), "{text}");
    drop(writer);
    assert_eq!(fs::read_dir(templates.cache.root()).unwrap().count(), 1);
    let writer = templates.create(&key("python")).unwrap();
    assert!(writer.is_some(), "a full disk blocks nothing");
}

#[test]
fn only_a_full_disk_is_reported_as_full() {
    let of = |kind: std::io::ErrorKind| Error::io("write", "/x")(kind.into());
    let store = std::path::Path::new("/store");
    let full = of(std::io::ErrorKind::StorageFull).or_disk_full(store, 1);
    let quota = of(std::io::ErrorKind::QuotaExceeded).or_disk_full(store, 1);
    let other = of(std::io::ErrorKind::PermissionDenied).or_disk_full(store, 1);
    assert!(matches!(full, Error::DiskFull { .. }) && matches!(quota, Error::DiskFull { .. }));
    assert!(matches!(other, Error::Io { .. }));
}
