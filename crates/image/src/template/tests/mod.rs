use std::collections::BTreeMap;
use std::fs::{self, File, FileTimes};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{MemfdFlags, memfd_create};

use super::format::{FORMAT, MANIFEST, RAM, STATE};
use super::*;
use crate::Error;
use crate::store::{IDENTITY_FILE, Store, example_manifest};

mod crash;
mod full_disk;
mod together;

const MIB: u64 = 1 << 20;

struct Fixture {
    directory: tempfile::TempDir,
    templates: Templates,
}

fn fixture() -> Fixture {
    let directory = tempfile::tempdir().unwrap();
    let templates = open_store(directory.path());
    Fixture {
        directory,
        templates,
    }
}

fn open_store(root: &std::path::Path) -> Templates {
    Store::open(root.join("store")).unwrap().templates()
}

fn inputs(language: &str) -> BTreeMap<String, String> {
    BTreeMap::from([("language".to_owned(), language.to_owned())])
}

fn key(language: &str) -> TemplateKey {
    TemplateKey::of(&inputs(language))
}

/// Returns the memory of a guest of 16 MiB as QEMU leaves it: data at both ends and between, and touched
/// pages of zeros.
fn memory(fill: u8) -> File {
    let file = memory_file();
    file.set_len(16 * MIB).unwrap();

    for offset in [0, 4096 * 3, 5 * MIB - 4096, 16 * MIB - 4096] {
        file.write_all_at(&[fill; 4096], offset).unwrap();
    }

    file.write_all_at(&[0; 256 * 1024], 8 * MIB).unwrap();
    file.write_all_at(&[fill], 9 * MIB + 5).unwrap();
    file
}

fn memory_file() -> File {
    memfd_create("test", MemfdFlags::CLOEXEC).unwrap().into()
}

fn contents(file: &File) -> Vec<u8> {
    let size = usize::try_from(file.metadata().unwrap().len()).unwrap();
    let mut bytes = vec![0; size];
    file.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

impl Fixture {
    fn make(&self, language: &str) -> TemplateKey {
        let writer = self.templates.create(&key(language)).unwrap().unwrap();
        writer
            .finish(inputs(language), &memory(7), b"devices")
            .unwrap();
        key(language)
    }

    fn part(&self, key: &TemplateKey, name: &str) -> PathBuf {
        self.templates.path(key).join(name)
    }

    /// Returns the names of everything below `templates` except the lock.
    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.templates.cache.root())
            .into_iter()
            .flatten();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name != "lock").collect()
    }

    fn is_opened(&self, key: &TemplateKey) -> bool {
        self.templates.open(key).unwrap().is_some()
    }

    fn used_at(&self, key: &TemplateKey, second: u64) {
        let time = FileTimes::new().set_modified(UNIX_EPOCH + Duration::from_secs(second));
        let directory = File::open(self.templates.path(key)).unwrap();
        directory.set_times(time).unwrap();
    }
}

#[test]
fn a_saved_template_is_restored_and_stays_sparse() {
    let fixture = fixture();
    let key = fixture.make("python");
    let template = fixture.templates.open(&key).unwrap().unwrap();
    assert_eq!(template.state(), b"devices");
    let manifest = template.manifest();
    assert_eq!(
        (manifest.inputs.clone(), manifest.key.as_str()),
        (inputs("python"), key.as_str())
    );

    assert_eq!(
        (manifest.ram_bytes, manifest.ram_data_bytes),
        (16 * MIB, 5 * 4096)
    );
    assert!(contents(template.ram()) == contents(&memory(7)));
    assert!(template.ram().metadata().unwrap().blocks() * 512 < 64 * 1024);
    let copy = memory_file();
    template.copy_ram_to(&copy).unwrap();
    assert!(contents(&copy) == contents(&memory(7)));
    assert!(copy.metadata().unwrap().blocks() * 512 < 64 * 1024);
}

#[test]
fn only_the_owner_can_read_a_guests_memory() {
    let fixture = fixture();
    let key = fixture.make("python");
    let mode = |path: PathBuf| fs::metadata(path).unwrap().mode() & 0o777;
    assert_eq!(mode(fixture.templates.cache.root().to_path_buf()), 0o700);

    for part in [RAM, STATE, MANIFEST] {
        assert_eq!(mode(fixture.part(&key, part)), 0o600, "{part}");
    }

    let template = fixture.templates.open(&key).unwrap().unwrap();
    assert!(template.ram().write_all_at(b"x", 0).is_err());
}

#[test]
fn reading_an_empty_store_creates_nothing() {
    let fixture = fixture();
    let templates = &fixture.templates;
    assert!(!fixture.is_opened(&key("python")) && !templates.has(&key("python")));
    assert!(templates.list().unwrap().is_empty());
    assert_eq!(templates.prune(0, |_| false).unwrap().removed, 0);
    assert!(!templates.cache.root().exists());
}

#[test]
fn the_key_depends_on_every_name_and_value() {
    let of = |pairs: &[(&str, &str)]| {
        let pairs = pairs
            .iter()
            .map(|(n, v)| ((*n).to_owned(), (*v).to_owned()));
        TemplateKey::of(&pairs.collect())
    };

    let all = [
        of(&[]),
        of(&[("a", "b")]),
        of(&[("a", "c")]),
        of(&[("ab", "")]),
        of(&[("a", "b"), ("c", "d")]),
    ];

    for (n, one) in all.iter().enumerate() {
        assert!(!all[n + 1..].contains(one), "{n}");
        assert_eq!(TemplateKey::from_name(one.as_str()).as_ref(), Some(one));
    }

    for bad in [
        "",
        "lock",
        &"A".repeat(64),
        &"0".repeat(63),
        &"0".repeat(65),
    ] {
        assert!(TemplateKey::from_name(bad).is_none(), "{bad}");
    }
}

#[test]
fn unchanged_files_are_not_hashed() {
    let fixture = fixture();
    let key = fixture.make("python");
    // Any hashing would reveal this wrong hash in the manifest.
    let text = fs::read_to_string(fixture.part(&key, MANIFEST)).unwrap();
    let manifest: TemplateManifest = serde_json::from_str(&text).unwrap();
    let other = text.replace(&manifest.ram_sha256, &"0".repeat(64));
    fs::write(fixture.part(&key, MANIFEST), other).unwrap();
    assert!(fixture.is_opened(&key));
    fs::remove_file(fixture.part(&key, IDENTITY_FILE)).unwrap();
    assert!(!fixture.is_opened(&key));
}

#[test]
fn touched_files_are_hashed_once_more() {
    let fixture = fixture();
    let key = fixture.make("python");
    let identities = || fs::read(fixture.part(&key, IDENTITY_FILE)).unwrap();
    let before = identities();
    let ram = File::options().write(true).open(fixture.part(&key, RAM));
    ram.unwrap().set_modified(UNIX_EPOCH).unwrap();
    assert!(fixture.templates.list().unwrap()[0].is_intact);
    let after = identities();
    assert!(fixture.is_opened(&key) && before != after && after == identities());
}

#[test]
fn a_damaged_template_is_removed_and_can_be_rebuilt() {
    type Damage = fn(&Fixture, &TemplateKey);
    let damages: [(&str, Damage); 9] = [
        ("other bytes", |f, key| {
            let ram = File::options().write(true).open(f.part(key, RAM));
            ram.unwrap().write_all_at(b"x", 3 * 4096).unwrap();
        }),
        ("a byte in a hole", |f, key| {
            let ram = File::options().write(true).open(f.part(key, RAM));
            ram.unwrap().write_all_at(b"x", 10 * MIB).unwrap();
        }),
        ("a longer hole", |f, key| {
            let ram = File::options().write(true).open(f.part(key, RAM));
            ram.unwrap().set_len(17 * MIB).unwrap();
        }),
        ("no memory", |f, key| {
            fs::remove_file(f.part(key, RAM)).unwrap()
        }),
        ("no state", |f, key| {
            fs::remove_file(f.part(key, STATE)).unwrap()
        }),
        ("other state", |f, key| {
            fs::write(f.part(key, STATE), "DEVICES").unwrap()
        }),
        ("no manifest", |f, key| {
            fs::remove_file(f.part(key, MANIFEST)).unwrap()
        }),
        ("bad manifest", |f, key| {
            fs::write(f.part(key, MANIFEST), "{").unwrap()
        }),
        ("a file", |f, key| {
            fs::remove_dir_all(f.templates.path(key)).unwrap();
            fs::write(f.templates.path(key), "x").unwrap();
        }),
    ];

    for (what, damage) in damages {
        let fixture = fixture();
        let key = fixture.make("python");
        damage(&fixture, &key);
        assert!(!fixture.templates.list().unwrap()[0].is_intact, "{what}");
        assert!(!fixture.is_opened(&key), "{what}");
        assert!(fixture.names().is_empty(), "{what}: {:?}", fixture.names());
        fixture.make("python");
        assert!(fixture.is_opened(&key), "{what}");
        // A damaged template that was not opened since is also replaced.
        damage(&fixture, &key);
        fixture.make("python");
        assert!(fixture.is_opened(&key), "{what}");
    }
}

#[test]
fn a_manifest_of_another_format_or_key_is_damage() {
    let fixture = fixture();
    let key = fixture.make("python");
    let load = || {
        let entry = fixture.templates.cache.entry(key.as_str()).unwrap();
        Template::load(&entry.unwrap())
    };

    let text = fs::read_to_string(fixture.part(&key, MANIFEST)).unwrap();
    for (from, to) in [
        (format!("\"format\": {FORMAT}"), "\"format\": 99"),
        ("python".to_owned(), "pythos"),
    ] {
        fs::write(fixture.part(&key, MANIFEST), text.replace(&from, to)).unwrap();
        let error = load().unwrap_err();
        assert!(matches!(error, Error::DamagedTemplate { .. }), "{error}");
    }
}

/// A prune that cannot check a template keeps it, and so does a process that could not load it.
#[test]
fn only_damage_is_a_reason_to_remove_a_template() {
    let fixture = fixture();
    let (kept, damaged) = (fixture.make("python"), fixture.make("shell"));

    // Without a record, the files are hashed: an intact template stays, a damaged one is removed.
    fixture.templates.distrust(&kept).unwrap();
    assert!(fixture.is_opened(&kept));
    let wrong = fs::read(fixture.part(&damaged, STATE)).unwrap().len();
    fs::write(fixture.part(&damaged, STATE), vec![0; wrong]).unwrap();
    fixture.templates.distrust(&damaged).unwrap();
    assert!(!fixture.is_opened(&damaged));
    assert!(!fixture.templates.has(&damaged));

    // Too many open files are no damage.
    let temporary = Error::io("open", "ram")(std::io::Error::from_raw_os_error(24));
    assert!(!temporary.is_damage());
    fixture.templates.prune(u64::MAX, |_| true).unwrap();
    assert!(fixture.is_opened(&kept));
}

#[test]
fn a_temporary_error_is_not_damage() {
    let fixture = fixture();
    let key = fixture.make("python");
    let entry = fixture
        .templates
        .cache
        .entry(key.as_str())
        .unwrap()
        .unwrap();

    // Not even root can open a file whose name is too long.
    let error = entry.open_file(&"x".repeat(300)).unwrap_err();
    assert!(matches!(error, Error::Io { .. }), "{error}");
}

#[test]
fn only_one_writer_creates_a_template() {
    let fixture = fixture();
    let writer = fixture.templates.create(&key("python")).unwrap().unwrap();
    let other = open_store(fixture.directory.path());
    assert!(other.create(&key("python")).unwrap().is_none());
    assert!(other.create(&key("shell")).unwrap().is_some());
    assert!(!other.has(&key("python")) && other.list().unwrap().is_empty());
    assert_eq!(other.prune(0, |_| false).unwrap().removed, 0);
    drop(writer);
    assert!(fixture.names().is_empty(), "{:?}", fixture.names());
    let writer = other.create(&key("python")).unwrap().unwrap();
    writer.finish(inputs("python"), &memory(1), b"").unwrap();
    assert!(fixture.templates.has(&key("python")));
    // The template exists now, so there is nothing to create.
    assert!(fixture.templates.create(&key("python")).unwrap().is_none());
}

#[test]
fn rejects_inputs_that_do_not_match_the_key() {
    let fixture = fixture();
    let writer = fixture.templates.create(&key("python")).unwrap().unwrap();
    let error = writer.finish(inputs("shell"), &memory(1), b"").unwrap_err();
    assert!(matches!(error, Error::Inconsistent { .. }), "{error}");
    assert!(fixture.names().is_empty());
}

#[test]
fn leftovers_of_dead_writers_are_swept() {
    let fixture = fixture();
    let made = fixture.make("python");
    let leave = || {
        for ending in ["new", "gone"] {
            let left = fixture.templates.path(&key("shell")).with_extension(ending);
            fs::create_dir(&left).unwrap();
            fs::write(left.join(RAM), "half").unwrap();
        }

        let new = fixture.templates.path(&key("shell")).with_extension("new");
        fs::write(new.join("lock"), "").unwrap();
    };
    leave();
    let writer = fixture.templates.create(&key("shell")).unwrap();
    assert!(writer.is_some());
    drop(writer);
    assert_eq!(fixture.names(), [made.to_string()]);
    leave();
    let report = fixture.templates.prune(u64::MAX, |_| true).unwrap();
    assert!(report.removed == 2 && report.freed_bytes > 0);
    assert_eq!(fixture.names(), [made.to_string()]);
}

#[test]
fn pruning_removes_the_least_recently_used_first() {
    let fixture = fixture();
    let keys = ["a", "b", "c", "d"].map(|language| fixture.make(language));
    for (key, second) in keys.iter().zip([30, 10, 40, 20]) {
        fixture.used_at(key, second);
    }

    let has = || keys.each_ref().map(|key| fixture.templates.has(key));
    let bytes: Vec<u64> = fixture
        .templates
        .list()
        .unwrap()
        .iter()
        .map(|t| t.bytes)
        .collect();

    let (all, one) = (bytes.iter().sum::<u64>(), bytes[0]);
    assert_eq!(fixture.templates.prune(all, |_| true).unwrap().removed, 0);
    // A limit of one byte less than four templates leaves three.
    let report = fixture.templates.prune(all - 1, |_| true).unwrap();
    assert_eq!((report.removed, report.freed_bytes), (1, one));
    assert_eq!(has(), [true, false, true, true]);
    // Opening a template protects it from the next prune; listing it does not.
    assert!(fixture.is_opened(&keys[3]) && fixture.templates.list().unwrap().len() == 3);
    fixture.templates.prune(2 * one, |_| true).unwrap();
    assert_eq!(has(), [false, false, true, true]);
    assert_eq!(fixture.templates.prune(0, |_| true).unwrap().removed, 2);
    assert!(fixture.names().is_empty());
}

#[test]
fn pruning_respects_the_filter_and_open_templates_stay_usable() {
    let fixture = fixture();
    let [python, shell] = ["python", "shell"].map(|language| fixture.make(language));
    let open = fixture.templates.open(&shell).unwrap().unwrap();
    let keep = |manifest: &TemplateManifest| manifest.inputs["language"] == "python";
    let report = fixture.templates.prune(u64::MAX, keep).unwrap();
    assert_eq!(report.removed, 1);
    assert!(fixture.templates.has(&python) && !fixture.templates.has(&shell));
    let copy = memory_file();
    open.copy_ram_to(&copy).unwrap();
    assert!(contents(&copy) == contents(&memory(7)));
}

#[test]
fn the_list_reports_size_use_and_damage() {
    let fixture = fixture();
    let [python, shell] = ["python", "shell"].map(|language| fixture.make(language));
    fixture.used_at(&python, 50);
    fs::write(fixture.part(&shell, MANIFEST), "{}").unwrap();
    fs::create_dir(fixture.templates.cache.root().join("other")).unwrap();
    let listed = fixture.templates.list().unwrap();
    assert_eq!(listed.len(), 2);
    let find = |key: &TemplateKey| listed.iter().find(|one| one.key == *key).unwrap();
    let good = find(&python);
    assert!(good.is_intact && good.manifest.as_ref().unwrap().inputs == inputs("python"));
    assert!((20_000..200_000).contains(&good.bytes), "{}", good.bytes);
    assert_eq!(good.last_used, UNIX_EPOCH + Duration::from_secs(50));
    assert_eq!(good.directory, fixture.templates.path(&python));
    let bad = find(&shell);
    assert!(!bad.is_intact && bad.manifest.is_err());
    let before = SystemTime::now();
    assert!(fixture.is_opened(&python));
    assert!(
        fixture
            .templates
            .list()
            .unwrap()
            .iter()
            .any(|one| one.last_used >= before)
    );
}

#[test]
fn templates_of_images_that_no_longer_exist_are_pruned() {
    let fixture = fixture();
    let store = Store::open(fixture.directory.path().join("store")).unwrap();
    let make = |image: &str| {
        let inputs = BTreeMap::from([("image".to_owned(), image.to_owned())]);
        let key = TemplateKey::of(&inputs);
        let writer = fixture.templates.create(&key).unwrap().unwrap();
        writer.finish(inputs, &memory(7), b"state").unwrap();
        key
    };

    // An image of the store, as its directory and its link.
    let mut manifest = example_manifest();
    manifest.id = "a".repeat(64);
    let name = manifest.directory("default");
    let images = store.root().join("images");
    fs::create_dir_all(images.join(&name)).unwrap();
    let text = serde_json::to_vec(&manifest).unwrap();
    fs::write(images.join(&name).join("manifest.json"), text).unwrap();
    std::os::unix::fs::symlink(&name, images.join("default")).unwrap();
    assert!(store.list().unwrap()[0].manifest.is_ok());

    let (current, own, stale) = (make(&manifest.id), make("own"), make("stale"));
    let prune = |own| {
        fixture
            .templates
            .prune_stale(u64::MAX, own)
            .unwrap()
            .removed
    };
    assert_eq!(prune(Some("own")), 1);
    assert!(!fixture.templates.has(&stale));
    assert_eq!(prune(None), 1);
    assert!(fixture.templates.has(&current) && !fixture.templates.has(&own));

    // If an image cannot be read, nothing is known to be stale.
    let stale = make("stale");
    fs::write(images.join(&name).join("manifest.json"), "{").unwrap();
    assert_eq!(prune(None), 0);
    assert!(fixture.templates.has(&stale));
}
