#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::io::Write;

use super::*;
use crate::store::Store;

fn key(text: &str) -> LayerKey {
    LayerKey::of([("specs", text)])
}

fn empty_store() -> (tempfile::TempDir, Layers) {
    let directory = tempfile::tempdir().unwrap();
    let layers = Store::open(directory.path()).unwrap().layers();
    (directory, layers)
}

fn make(layers: &Layers, request: &str, set: &str, content: &[u8]) -> StoredLayer {
    let writer = layers.create(&key(request), false).unwrap().unwrap();
    let mut file = writer.file(content.len() as u64).unwrap();
    file.write_all(content).unwrap();
    let package = StoredPackage {
        name: "tiny".into(),
        version: set.into(),
    };
    let requested = vec![request.to_owned()];
    let layer = writer
        .finish(&key(set), "python", "image", vec![package], requested)
        .unwrap();
    layers.record_request(&key(request), &layer).unwrap();
    layer
}

#[test]
fn a_request_and_its_set_find_the_layer() {
    let (_directory, layers) = empty_store();
    assert!(layers.find(&key("a")).unwrap().is_none());
    let made = make(&layers, "a", "1", b"contents");
    let found = layers.find(&key("a")).unwrap().unwrap();
    assert_eq!(found.manifest(), made.manifest());
    assert_eq!(fs::read(found.path()).unwrap(), b"contents");
    let of_set = layers.find_set(&key("1")).unwrap().unwrap();
    assert_eq!(of_set.path(), found.path());
    assert!(layers.find_set(&key("2")).unwrap().is_none());
    // Another request that resolved to the same set.
    layers.record_request(&key("b"), &of_set).unwrap();
    assert_eq!(
        layers.find(&key("b")).unwrap().unwrap().path(),
        found.path()
    );

    assert_eq!(layers.list().unwrap().len(), 1);
}

#[test]
fn writers_exclude_each_other_and_leave_nothing_when_dropped() {
    let (_directory, layers) = empty_store();
    let writer = layers.create(&key("a"), false).unwrap().unwrap();
    writer.file(10).unwrap().write_all(b"half").unwrap();
    assert!(layers.create(&key("a"), false).unwrap().is_none());
    assert!(layers.create(&key("b"), false).unwrap().is_some());
    drop(writer);
    assert!(layers.list().unwrap().is_empty());
    assert!(layers.create(&key("a"), false).unwrap().is_some());
}

#[test]
fn leftovers_of_a_killed_writer_are_swept() {
    let (_directory, layers) = empty_store();
    make(&layers, "a", "1", b"contents");
    let left = layers.cache.path(key("b").as_str()).with_extension("new");
    fs::create_dir(&left).unwrap();
    fs::write(left.join("layer"), "half").unwrap();
    assert!(layers.create(&key("b"), false).unwrap().is_some());
    assert!(!left.exists());
}

#[test]
fn a_damaged_layer_is_removed() {
    let (_directory, layers) = empty_store();
    let made = make(&layers, "a", "1", b"contents");
    fs::write(made.path(), b"contexts").unwrap();
    assert!(layers.find(&key("a")).unwrap().is_none());
    assert!(layers.list().unwrap().is_empty());
    make(&layers, "a", "1", b"contents");
    fs::write(layers.request_path(&key("a")), "../../x").unwrap();
    assert!(layers.find(&key("a")).unwrap().is_none());
}

#[test]
fn pruning_removes_the_least_recently_used_layers_and_their_requests() {
    let (_directory, layers) = empty_store();
    make(&layers, "a", "1", b"one");
    make(&layers, "b", "2", b"two");
    assert!(layers.find(&key("a")).unwrap().is_some());
    let each = layers.list().unwrap()[0].bytes;
    let report = layers.prune(each + each / 2).unwrap();
    assert_eq!(report.removed, 1);
    assert!(layers.find(&key("b")).unwrap().is_none());
    assert!(!layers.request_path(&key("b")).exists());
    assert!(layers.find(&key("a")).unwrap().is_some());
    assert_eq!(layers.prune(0).unwrap().removed, 1);
    assert!(layers.list().unwrap().is_empty());
}
