use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::identity::IDENTITY_FILE;
use super::image_store::root_from;
use super::manifest::tests::example;
use super::*;
use crate::Error;

struct Fixture {
    _directory: tempfile::TempDir,
    store: Store,
    name: ImageName,
    manifest: Manifest,
}

/// Returns a store with one image whose parts contain their own names.
fn fixture_with_image() -> Fixture {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path().join("store")).unwrap();
    let fixture = Fixture {
        _directory: directory,
        store,
        name: ImageName::default(),
        manifest: example(),
    };
    install(&fixture, &fixture.manifest);

    fixture
}

fn install(fixture: &Fixture, manifest: &Manifest) {
    let _lock = fixture.store.lock(|| {}).unwrap();
    let work = fixture.store.work_dir().unwrap();
    let finished = work.path().join("image");
    fs::create_dir(&finished).unwrap();

    for part in &manifest.parts {
        fs::write(finished.join(&part.file), &part.name).unwrap();
    }

    fs::write(
        finished.join("manifest.json"),
        serde_json::to_vec(manifest).unwrap(),
    )
    .unwrap();

    fixture
        .store
        .install(&fixture.name, manifest, &finished)
        .unwrap();
}

fn rootfs(fixture: &Fixture) -> PathBuf {
    fixture
        .store
        .directory_of(&fixture.name)
        .unwrap()
        .join("rootfs.erofs")
}

fn identities(fixture: &Fixture) -> Vec<u8> {
    let directory = fixture.store.directory_of(&fixture.name).unwrap();
    fs::read(directory.join(IDENTITY_FILE)).unwrap_or_default()
}

#[test]
fn the_root_is_the_first_absolute_variable() {
    let find = |pairs: &[(&str, &str)]| {
        let map: HashMap<_, _> = pairs.iter().copied().collect();
        root_from(|name| map.get(name).map(PathBuf::from))
    };

    let home = ("HOME", "/home/a");
    assert_eq!(
        find(&[home]).unwrap(),
        Path::new("/home/a/.local/share/fumehood")
    );

    assert_eq!(
        find(&[home, ("XDG_DATA_HOME", "/d")]).unwrap(),
        Path::new("/d/fumehood")
    );

    assert_eq!(
        find(&[home, ("FUMEHOOD_HOME", "/f")]).unwrap(),
        Path::new("/f")
    );

    assert_eq!(
        find(&[("FUMEHOOD_HOME", "f"), ("HOME", "/h")]).unwrap(),
        Path::new("/h/.local/share/fumehood")
    );

    assert!(matches!(find(&[]), Err(Error::NoHome)));
}

#[test]
fn a_missing_image_names_the_build_command() {
    let store = Store::open("/nonexistent/store").unwrap();
    let error = store.image(&ImageName::default()).unwrap_err();
    assert!(matches!(error, Error::Missing { .. }));
    assert!(
        error.to_string().contains("fumehood image build"),
        "{error}"
    );

    assert!(store.list().unwrap().is_empty());
}

#[test]
fn opens_and_lists_a_built_image() {
    let fixture = fixture_with_image();
    let image = fixture.store.image(&fixture.name).unwrap();
    assert_eq!(image.manifest(), &fixture.manifest);
    assert_eq!(image.rootfs().bytes(), 6);
    assert_eq!(
        std::io::read_to_string(image.kernel().file()).unwrap(),
        "kernel"
    );

    let listed = fixture.store.list().unwrap();
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0].manifest.as_ref().unwrap(), &fixture.manifest);
    assert!(fixture.store.verify(&fixture.name).unwrap().is_intact());
}

#[test]
fn a_touched_part_is_hashed_once_more() {
    let fixture = fixture_with_image();
    fixture.store.image(&fixture.name).unwrap();
    let before = identities(&fixture);
    let file = OpenOptions::new()
        .write(true)
        .open(rootfs(&fixture))
        .unwrap();
    file.set_modified(SystemTime::now() - Duration::from_secs(9))
        .unwrap();
    let image = fixture.store.image(&fixture.name).unwrap();
    assert_eq!(
        std::io::read_to_string(image.rootfs().file()).unwrap(),
        "rootfs"
    );

    let after = identities(&fixture);
    assert_ne!(before, after);
    fixture.store.image(&fixture.name).unwrap();
    assert_eq!(identities(&fixture), after);
}

#[test]
fn an_unchanged_part_is_not_hashed() {
    let fixture = fixture_with_image();
    fixture.store.image(&fixture.name).unwrap();
    let directory = fixture.store.directory_of(&fixture.name).unwrap();
    // Hashing the part would reveal this wrong hash.
    let mut wrong = fixture.manifest.clone();
    wrong.parts[2].sha256 = "0".repeat(64);
    fs::write(
        directory.join("manifest.json"),
        serde_json::to_vec(&wrong).unwrap(),
    )
    .unwrap();
    assert!(fixture.store.image(&fixture.name).is_ok());
    assert!(!fixture.store.verify(&fixture.name).unwrap().is_intact());
}

#[test]
fn a_changed_byte_is_damage() {
    let fixture = fixture_with_image();
    fixture.store.image(&fixture.name).unwrap();
    fs::write(rootfs(&fixture), "rootfz").unwrap();
    let error = fixture.store.image(&fixture.name).unwrap_err();
    assert!(
        matches!(&error, Error::Damaged { part, .. } if part == "rootfs"),
        "{error}"
    );
    assert!(error.to_string().contains("fumehood image build"));
    let report = fixture.store.verify(&fixture.name).unwrap();
    assert!(matches!(report.parts[2].state, PartState::Damaged { .. }));
    assert_eq!(report.parts[0].state, PartState::Intact);
}

#[test]
fn a_truncated_or_removed_part_is_damage() {
    let fixture = fixture_with_image();
    fs::write(rootfs(&fixture), "root").unwrap();
    assert!(matches!(
        fixture.store.image(&fixture.name),
        Err(Error::Damaged { .. })
    ));
    fs::remove_file(rootfs(&fixture)).unwrap();
    let error = fixture.store.image(&fixture.name).unwrap_err();
    assert!(
        matches!(&error, Error::Damaged { part, .. } if part == "rootfs"),
        "{error}"
    );

    let report = fixture.store.verify(&fixture.name).unwrap();
    assert!(matches!(
        report.parts[2].state,
        PartState::Unreadable { .. }
    ));
}

#[test]
fn descriptors_of_a_replaced_image_stay_readable() {
    let fixture = fixture_with_image();
    let old = fixture.store.image(&fixture.name).unwrap();
    let mut manifest = fixture.manifest.clone();
    manifest.id = "f".repeat(64);
    install(&fixture, &manifest);
    assert_eq!(
        fixture.store.image(&fixture.name).unwrap().id(),
        manifest.id
    );
    assert!(!old.directory().exists());
    assert_eq!(
        std::io::read_to_string(old.rootfs().file()).unwrap(),
        "rootfs"
    );

    assert_eq!(fs::read_dir(fixture.store.tmp()).unwrap().count(), 0);
}

#[test]
fn a_damaged_image_is_replaced_by_one_with_the_same_id() {
    let fixture = fixture_with_image();
    fs::write(rootfs(&fixture), "broken").unwrap();
    install(&fixture, &fixture.manifest);
    assert!(fixture.store.image(&fixture.name).is_ok());
    assert_eq!(fs::read_dir(fixture.store.tmp()).unwrap().count(), 0);
}

#[test]
fn builds_exclude_each_other() {
    let fixture = fixture_with_image();
    let held = fixture.store.lock(|| {}).unwrap();
    let store = fixture.store.clone();
    let (sender, receiver) = std::sync::mpsc::channel();
    let other = std::thread::spawn(move || {
        let lock = store.lock(|| sender.send("waiting").unwrap());
        sender.send("has it").unwrap();
        drop(lock);
    });
    assert_eq!(receiver.recv().unwrap(), "waiting");
    assert!(receiver.recv_timeout(Duration::from_millis(50)).is_err());
    drop(held);
    assert_eq!(receiver.recv().unwrap(), "has it");
    other.join().unwrap();
}

#[test]
fn pruning_a_cache_keeps_the_newest_entries() {
    let fixture = fixture_with_image();
    for (index, name) in ["a", "b", "c", "d", "e"].iter().enumerate() {
        let path = fixture.store.cache("base").join(name);
        let file = File::create(&path).unwrap();
        file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(index as u64))
            .unwrap();
    }

    fixture.store.prune("base").unwrap();
    assert!(!fixture.store.cache("base").join("b").exists());
    assert!(fixture.store.cache("base").join("c").exists());
}

#[test]
fn too_little_free_space_is_reported_first() {
    let fixture = fixture_with_image();
    fixture.store.require_space(1).unwrap();
    let error = fixture
        .store
        .require_space(u64::MAX)
        .unwrap_err()
        .to_string();

    assert!(
        error.contains("MB free") && error.contains("FUMEHOOD_HOME"),
        "{error}"
    );
}
