#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod crash;
mod full_disk;

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::format::PAGE;
use super::*;
use crate::store::Store;
use crate::{Error, hash};

const MEMORY: u64 = 1 << 20;

struct Setup {
    own_directory: Option<tempfile::TempDir>,
    store: Store,
    states: SavedStates,
    rootfs: PathBuf,
    template: PathBuf,
}

impl Setup {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut setup = Self::at(directory.path());
        setup.own_directory = Some(directory);
        setup
    }

    /// Uses a directory, which may have been used before.
    fn at(directory: &Path) -> Self {
        let store = Store::open(directory.join("store")).unwrap();
        let (rootfs, template) = (directory.join("rootfs"), directory.join("ram"));
        if !template.exists() {
            fs::write(&rootfs, "a root file system").unwrap();
            let ram = File::create_new(&template).unwrap();
            ram.set_len(MEMORY).unwrap();
            ram.write_all_at(&[1; PAGE], 0).unwrap();
            ram.write_all_at(&[2; PAGE], 5 * PAGE as u64).unwrap();
        }
        Self {
            states: store.saved_states(),
            own_directory: None,
            store,
            rootfs,
            template,
        }
    }

    /// Saves a guest with one page that its template does not have, and one that has become zero.
    fn save(&self, label: &str) -> Result<StateSummary, Error> {
        self.save_pages(label, 2 * PAGE as u64, |pages| {
            pages.push(0, &[1; PAGE])?;
            pages.push(5 * PAGE as u64, &[0; PAGE])?;
            pages.push(9 * PAGE as u64, &[3; PAGE])
        })
    }

    fn save_pages(
        &self,
        label: &str,
        max_data_bytes: u64,
        pages: impl FnOnce(&mut PageWriter<'_>) -> std::io::Result<()>,
    ) -> Result<StateSummary, Error> {
        let (rootfs, template) = (
            File::open(&self.rootfs).unwrap(),
            File::open(&self.template).unwrap(),
        );
        let rootfs_digest = hash::of_path(&self.rootfs).unwrap();
        let template_digest = crate::template::memory_digest(&template).unwrap();
        let state = StateToSave {
            label,
            memory_bytes: MEMORY,
            max_data_bytes,
            template: Some(NeededFile {
                file: &template,
                sha256: &template_digest,
            }),
            rootfs: NeededFile {
                file: &rootfs,
                sha256: &rootfs_digest,
            },
            layer: None,
            devices: b"devices",
            description: serde_json::json!({ "machine": "x" }),
            process: None,
        };
        self.states.save(state, pages)
    }

    fn id(&self) -> StateId {
        self.save("mine").unwrap().manifest.id
    }
}

fn memory_of(state: OpenedState) -> Vec<u8> {
    let file = tempfile::tempfile().unwrap();
    state.pages().fill(&file).unwrap();
    let mut all = vec![0; usize::try_from(MEMORY).unwrap()];
    file.read_exact_at(&mut all, 0).unwrap();
    all
}

#[test]
fn a_state_is_listed_claimed_once_and_consumed() {
    let setup = Setup::new();
    let saved = setup.save("mine").unwrap();
    assert_eq!(saved.manifest.data_bytes, PAGE as u64);
    let id = saved.manifest.id.clone();
    let listed: Vec<_> = setup.states.list().unwrap().into_iter().flatten().collect();
    assert_eq!(listed, [saved]);
    assert_eq!(listed[0].manifest.label, "mine");

    let claim = setup.states.claim(&id).unwrap();
    let again = setup.states.claim(&id).unwrap_err();
    assert!(matches!(again, Error::StateInUse { .. }), "{again}");
    assert!(matches!(
        setup.states.delete(&id),
        Err(Error::StateInUse { .. })
    ));

    let memory = memory_of(claim.open().unwrap());
    let nonzero = memory
        .chunks(PAGE)
        .enumerate()
        .filter(|(_, page)| page[0] != 0);
    let nonzero: Vec<_> = nonzero.map(|(at, page)| (at, page[0])).collect();
    assert_eq!(nonzero, [(0, 1), (9, 3)]);

    claim.consume().unwrap();
    let error = setup.states.claim(&id).unwrap_err();
    assert!(matches!(error, Error::MissingState { .. }), "{error}");
    assert!(!setup.states.delete(&id).unwrap());
    assert!(setup.states.list().unwrap().is_empty());
}

/// As after a crash of the host: the file system has forgotten that the directory was removed.
#[test]
fn a_consumed_state_that_reappears_is_not_found_and_removed_by_the_next_start() {
    let setup = Setup::new();
    let id = setup.id();
    let (path, aside) = (setup.states.path(&id), setup.rootfs.with_file_name("aside"));
    let claim = setup.states.claim(&id).unwrap();
    fs::create_dir(&aside).unwrap();
    for file in fs::read_dir(&path).unwrap().flatten() {
        fs::hard_link(file.path(), aside.join(file.file_name())).unwrap();
    }
    claim.consume().unwrap();
    while path.exists() {
        std::thread::yield_now();
    }
    fs::rename(&aside, &path).unwrap();

    assert!(setup.states.list().unwrap().is_empty());
    for error in [
        setup.states.claim(&id).unwrap_err(),
        setup.states.open(&id).unwrap_err(),
    ] {
        assert!(matches!(error, Error::MissingState { .. }), "{error}");
    }
    assert!(setup.store.has_leftovers());
    setup.store.remove_leftovers().unwrap();
    assert!(!path.exists());
}

#[test]
fn an_abandoned_claim_leaves_the_state() {
    let setup = Setup::new();
    let id = setup.id();
    drop(setup.states.claim(&id).unwrap());
    setup.states.claim(&id).unwrap().open().unwrap();
    assert!(setup.states.delete(&id).unwrap());
}

#[test]
fn files_are_readable_only_by_their_owner() {
    let setup = Setup::new();
    let path = setup.states.path(&setup.id());
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o700);
    let mut names = Vec::new();
    for file in fs::read_dir(&path).unwrap().flatten() {
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        names.push(file.file_name().into_string().unwrap());
    }
    names.sort();
    assert_eq!(
        names,
        ["claim", "devices", "index", "manifest.json", "memory"]
    );
}

#[test]
fn a_state_stays_usable_when_its_template_and_image_are_removed() {
    let setup = Setup::new();
    let id = setup.id();
    fs::remove_file(&setup.rootfs).unwrap();
    fs::remove_file(&setup.template).unwrap();
    setup.states.remove_unused_files().unwrap();

    let opened = setup.states.open(&id).unwrap();
    assert_eq!(opened.rootfs().metadata().unwrap().nlink(), 1);
    // The files stay for as long as a process uses them, although no state needs them any more.
    assert!(setup.states.delete(&id).unwrap());
    setup.states.remove_unused_files().unwrap();
    let pinned = setup.states.path(&id).with_file_name("pinned");
    let count = || {
        let names = fs::read_dir(&pinned).unwrap().flatten();
        names
            .filter(|item| item.file_name() != "identity.json")
            .count()
    };
    assert_eq!(count(), 2);
    assert_eq!(memory_of(opened)[9 * PAGE], 3);
    setup.states.remove_unused_files().unwrap();
    assert_eq!(count(), 0);
}

#[test]
fn a_pinned_file_takes_no_space_and_stays_while_its_original_exists() {
    let setup = Setup::new();
    let id = setup.id();
    assert_eq!(setup.rootfs.metadata().unwrap().nlink(), 2);
    setup.states.delete(&id).unwrap();
    setup.states.remove_unused_files().unwrap();
    // A link costs nothing; making it anew would change the file's times, so that it would be hashed again.
    assert_eq!(setup.rootfs.metadata().unwrap().nlink(), 2);
}

#[test]
fn every_damaged_file_is_named_and_the_state_stays() {
    let setup = Setup::new();
    let id = setup.id();
    let directory = setup.states.path(&id);
    let opened = setup.states.open(&id).unwrap();
    let pinned = directory.with_file_name("pinned");
    let rootfs = format!("rootfs-{}", opened.manifest().rootfs.sha256);
    let ram = format!(
        "template-{}",
        opened.manifest().template.clone().unwrap().sha256
    );
    drop(opened);

    let files = [
        (directory.join("manifest.json"), 10),
        (directory.join("index"), 1),
        (directory.join("devices"), 3),
        (directory.join("claim"), 3),
        (directory.join("memory"), 9 * PAGE as u64 + 77),
        (pinned.join(rootfs), 4),
        (pinned.join(ram), 5),
    ];
    let check = || {
        let state = setup.states.open(&id)?;
        state.pages().verify()
    };
    for (path, offset) in files {
        let file = File::options().read(true).write(true).open(&path).unwrap();
        let length = file.metadata().unwrap().len();
        let mut byte = [0];
        file.read_exact_at(&mut byte, offset).unwrap();

        let error = |what: &str| {
            let error = check().unwrap_err().to_string();
            assert!(error.contains(path.to_str().unwrap()), "{what}: {error}");
        };
        file.write_all_at(&[byte[0] ^ 4], offset).unwrap();
        error("flipped");
        file.write_all_at(&byte, offset).unwrap();

        let mut contents = vec![0; usize::try_from(length).unwrap()];
        file.read_exact_at(&mut contents, 0).unwrap();
        file.set_len(length - 1).unwrap();
        error("truncated");
        file.write_all_at(&contents, 0).unwrap();

        let aside = path.with_extension("aside");
        fs::rename(&path, &aside).unwrap();
        error("missing");
        fs::rename(&aside, &path).unwrap();
        check().unwrap();
    }
}

#[test]
fn a_newer_format_is_refused_with_the_reason() {
    let setup = Setup::new();
    let id = setup.id();
    let mut manifest = setup.states.open(&id).unwrap().manifest().clone();
    manifest.format = 2;
    let path = setup.states.path(&id).join("manifest.json");
    fs::write(&path, manifest.encode().unwrap()).unwrap();
    let error = setup.states.open(&id).unwrap_err().to_string();
    assert!(
        error.contains("format 2") && error.contains("manifest.json"),
        "{error}"
    );

    // It does not hide the others.
    setup.id();
    let listed = setup.states.list().unwrap();
    assert_eq!(listed.iter().filter(|state| state.is_ok()).count(), 1);
    assert_eq!(listed.len(), 2);
}

#[test]
fn a_manifest_of_another_state_and_a_long_label_are_refused() {
    let setup = Setup::new();
    let (one, other) = (setup.id(), setup.id());
    let manifest = |id| setup.states.path(id).join("manifest.json");
    fs::copy(manifest(&one), manifest(&other)).unwrap();
    let error = setup.states.open(&other).unwrap_err();
    assert!(matches!(error, Error::DamagedState { .. }), "{error}");
    let error = setup.save(&"x".repeat(257)).unwrap_err();
    assert!(matches!(error, Error::Option { .. }), "{error}");
}

#[test]
fn after_an_error_there_is_no_state_and_the_remains_of_a_killed_writer_are_removed() {
    let setup = Setup::new();
    let rootfs = File::open(&setup.rootfs).unwrap();
    let digest = hash::of_path(&setup.rootfs).unwrap();
    let state = StateToSave {
        label: "",
        memory_bytes: MEMORY,
        max_data_bytes: 0,
        template: None,
        rootfs: NeededFile {
            file: &rootfs,
            sha256: &digest,
        },
        layer: None,
        devices: b"",
        description: serde_json::Value::Null,
        process: None,
    };
    let full = |_: &mut PageWriter<'_>| Err(std::io::ErrorKind::StorageFull.into());
    let error = setup.states.save(state, full).unwrap_err();
    assert!(matches!(error, Error::DiskFull { .. }), "{error}");
    assert!(setup.states.list().unwrap().is_empty());
    assert!(!setup.store.has_leftovers());

    // As after a kill: files, and a lock that no process holds.
    let id = StateId::random().unwrap();
    let half = setup.states.path(&id).with_extension("new");
    fs::create_dir(&half).unwrap();
    fs::write(half.join("lock"), "").unwrap();
    fs::write(half.join("memory"), vec![7; 1 << 20]).unwrap();
    assert!(setup.store.has_leftovers());
    assert!(setup.store.remove_leftovers().unwrap().freed_bytes >= 1 << 20);
    assert!(!half.exists());
}
