//! A disk that is full: a real one of one megabyte where the test may mount it.

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use super::*;

/// A small file system in memory, gone with this.
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
fn too_little_room_is_told_before_anything_is_written() {
    let Some(disk) = Disk::new() else { return };
    let templates = open_store(disk.0.path());
    let draft = templates.create(&key("python")).unwrap().unwrap();
    let error = draft
        .finish(inputs("python"), &two_megabytes(), b"")
        .unwrap_err();

    assert!(
        matches!(error, Error::InsufficientSpace { available, required, .. } if required > 2 << 20 && available <= 1 << 20),
        "{error}"
    );

    assert_eq!(fs::read_dir(templates.cache.root()).unwrap().count(), 1);
}

#[test]
fn a_disk_that_fills_up_meanwhile_is_told_and_nothing_stays() {
    let Some(disk) = Disk::new() else { return };
    let templates = open_store(disk.0.path());
    let draft = templates.create(&key("python")).unwrap().unwrap();
    // As `finish` does it, but without the look at the room beforehand.
    let written = draft.write(inputs("python"), &two_megabytes(), b"");
    let error = written
        .unwrap_err()
        .or_disk_full(templates.cache.root(), 5_000_000);
    assert!(matches!(error, Error::DiskFull { .. }), "{error}");
    let text = error.to_string();
    assert!(text.contains("is full") && text.contains("5 MB"), "{text}");
    drop(draft);
    assert_eq!(fs::read_dir(templates.cache.root()).unwrap().count(), 1);
    let draft = templates.create(&key("python")).unwrap();
    assert!(draft.is_some(), "a full disk blocks nothing");
}

#[test]
fn only_a_full_disk_is_called_one() {
    let of = |kind: std::io::ErrorKind| Error::io("write", "/x")(kind.into());
    let store = std::path::Path::new("/store");
    let full = of(std::io::ErrorKind::StorageFull).or_disk_full(store, 1);
    let quota = of(std::io::ErrorKind::QuotaExceeded).or_disk_full(store, 1);
    let other = of(std::io::ErrorKind::PermissionDenied).or_disk_full(store, 1);
    assert!(matches!(full, Error::DiskFull { .. }) && matches!(quota, Error::DiskFull { .. }));
    assert!(matches!(other, Error::Io { .. }));
}
