//! Opens images, templates, layers and saved states whose manifests are arbitrary bytes; decodes indexes of pages.
#![no_main]

use std::cell::OnceCell;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use fumehood_image::{
    ImageName, LayerManifest, PageIndex, StateId, StateManifest, Store, TemplateKey, TemplateManifest,
};
use tempfile::TempDir;

thread_local! {
    /// A store in memory, which all inputs share.
    static STORE: OnceCell<TempDir> = const { OnceCell::new() };
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let [kind, manifest @ ..] = bytes else { return };
    STORE.with(|store| {
        let root = store.get_or_init(|| tempfile::tempdir_in("/dev/shm").expect("a directory"));
        let store = Store::open(root.path()).expect("a store");
        match kind % 5 {
            0 => open_image(&store, manifest),
            1 => open_template(&store, manifest),
            2 => open_layer(&store, manifest),
            3 => open_state(&store, manifest),
            _ => decode_index(manifest),
        }
    });
});

fn open_image(store: &Store, manifest: &[u8]) {
    let directory = store.root().join("images/default-000000000000");
    write_entry(
        &directory,
        manifest,
        &["vmlinux", "initrd.cpio", "rootfs.erofs"],
    );
    let _ = symlink("default-000000000000", store.root().join("images/default"));
    let name = ImageName::default();
    if let Ok(image) = store.image(&name) {
        // A part is a file of the image's own directory.
        for part in [image.kernel(), image.initrd(), image.rootfs()] {
            assert_eq!(part.path().parent(), Some(image.directory()));
        }
    }
    let _ = store.list();
    let _ = store.verify(&name);
}

fn open_template(store: &Store, text: &[u8]) {
    // A template is found by the key of its inputs.
    let mut manifest = text.to_vec();
    let mut key = TemplateKey::of(&Default::default());
    if let Ok(mut parsed) = serde_json::from_slice::<TemplateManifest>(text) {
        key = TemplateKey::of(&parsed.inputs);
        parsed.key = key.as_str().to_owned();
        manifest = serde_json::to_vec(&parsed).expect("a manifest");
    }
    let directory = store.root().join("templates").join(key.as_str());
    write_entry(&directory, &manifest, &["ram", "state"]);
    let templates = store.templates();
    let _ = templates.list();
    if let Ok(Some(template)) = templates.open(&key) {
        assert_eq!(template.manifest().key, key.as_str());
    }
    let _ = fs::remove_dir_all(&directory);
}

fn open_layer(store: &Store, text: &[u8]) {
    // A layer has the name of its digest.
    let mut name = "0".repeat(64);
    if let Ok(manifest) = serde_json::from_slice::<LayerManifest>(text) {
        let is_digest = |c: char| c.is_ascii_hexdigit() && !c.is_ascii_uppercase();
        if manifest.digest.len() == 64 && manifest.digest.chars().all(is_digest) {
            name = manifest.digest;
        }
    }
    let directory = store.root().join("layers").join(name);
    write_entry(&directory, text, &["layer"]);
    let _ = store.layers().list();
    let _ = store.layers().prune(u64::MAX);
    let _ = fs::remove_dir_all(&directory);
}

fn open_state(store: &Store, text: &[u8]) {
    // The checksum is that of the first line: it would be wrong in almost all inputs.
    let _ = StateManifest::decode(text);
    let id: StateId = "0".repeat(64).parse().expect("an id");
    let states = store.saved_states();
    write_entry(&states.path(&id), text, &["memory", "index", "devices"]);
    fs::write(states.path(&id).join("claim"), "unclaimed\n").expect("a file");
    let _ = states.list();
    assert!(states.open(&id).is_err());
}

/// What passes has entries in order, within the memory.
fn decode_index(bytes: &[u8]) {
    const MEMORY_BYTES: u64 = 64 << 20;
    if let Ok(index) = PageIndex::decode(bytes, MEMORY_BYTES) {
        assert!(index.data_bytes() <= MEMORY_BYTES);
    }
}

/// Writes a manifest and the files beside it.
fn write_entry(directory: &Path, manifest: &[u8], files: &[&str]) {
    fs::create_dir_all(directory).expect("a directory");
    fs::write(directory.join("manifest.json"), manifest).expect("a file");
    for file in files {
        fs::write(directory.join(file), "x").expect("a file");
    }
}
