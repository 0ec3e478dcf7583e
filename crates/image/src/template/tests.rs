use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};

use super::*;
use crate::Store;

const MIB: u64 = 1024 * 1024;

fn inputs(language: &str) -> BTreeMap<String, String> {
    [("language".to_string(), language.to_string())].into()
}

/// 16 MiB of memory: data at its beginning, in its middle and at its end, zeros written elsewhere.
fn memory() -> File {
    let file = tempfile::tempfile().unwrap();
    file.set_len(16 * MIB).unwrap();
    for offset in [0, 7 * MIB + 4096, 16 * MIB - 4096] {
        file.write_all_at(&[7; 4096], offset).unwrap();
    }
    file.write_all_at(&vec![0; MIB as usize], 3 * MIB).unwrap();
    file
}

struct Fixture {
    directory: tempfile::TempDir,
    templates: Templates,
}

impl Fixture {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let templates = Store::open(directory.path()).unwrap().templates();
        Self {
            directory,
            templates,
        }
    }

    fn make(&self, language: &str) -> TemplateKey {
        let key = TemplateKey::of(&inputs(language));
        let draft = self.templates.begin(&key).unwrap().unwrap();
        draft.finish(inputs(language), &memory(), b"state").unwrap();
        key
    }

    fn file(&self, key: &TemplateKey, name: &str) -> std::path::PathBuf {
        let templates = self.directory.path().join("templates");
        templates.join(key.as_str()).join(name)
    }
}

#[test]
fn what_is_saved_is_opened_and_stays_sparse() {
    let fixture = Fixture::new();
    let key = fixture.make("python");
    let template = fixture.templates.open(&key).unwrap().unwrap();
    assert_eq!(template.state(), b"state");
    assert_eq!(template.manifest().ram_bytes, 16 * MIB);
    assert!(template.ram().metadata().unwrap().blocks() * 512 < 64 * 1024);
    assert_eq!(template.ram().metadata().unwrap().mode() & 0o777, 0o600);
    let copy = tempfile::tempfile().unwrap();
    template.copy_ram_to(&copy).unwrap();
    let all = |file: &File| {
        let mut bytes = vec![0; 16 * MIB as usize];
        file.read_exact_at(&mut bytes, 0).unwrap();
        bytes
    };
    assert!(all(&copy) == all(&memory()));
    assert_eq!(copy.metadata().unwrap().len(), 16 * MIB);
}

#[test]
fn another_input_is_another_template() {
    let fixture = Fixture::new();
    fixture.make("python");
    let other = TemplateKey::of(&inputs("raw"));
    assert!(!fixture.templates.has(&other));
    assert!(fixture.templates.open(&other).unwrap().is_none());
}

#[test]
fn a_damaged_one_is_thrown_away_and_can_be_made_again() {
    type Damage = fn(&Fixture, &TemplateKey);
    let damages: [Damage; 5] = [
        |f, key| {
            let ram = File::options().write(true).open(f.file(key, RAM)).unwrap();
            ram.write_all_at(b"x", 5 * MIB).unwrap();
        },
        |f, key| fs::write(f.file(key, STATE), "other").unwrap(),
        |f, key| fs::remove_file(f.file(key, STATE)).unwrap(),
        |f, key| fs::write(f.file(key, MANIFEST), "{}").unwrap(),
        |f, key| {
            let ram = File::options().write(true).open(f.file(key, RAM)).unwrap();
            ram.set_len(17 * MIB).unwrap();
        },
    ];
    for damage in damages {
        let fixture = Fixture::new();
        let key = fixture.make("python");
        damage(&fixture, &key);
        assert!(!fixture.templates.list().unwrap()[0].is_intact);
        assert!(fixture.templates.open(&key).unwrap().is_none());
        assert!(!fixture.templates.has(&key));
        fixture.make("python");
        assert!(fixture.templates.open(&key).unwrap().is_some());
    }
}

/// A file that was only touched is hashed again, and is then known again.
#[test]
fn a_touched_one_is_still_good() {
    let fixture = Fixture::new();
    let key = fixture.make("python");
    let ram = File::options().write(true).open(fixture.file(&key, RAM));
    ram.unwrap()
        .set_modified(std::time::SystemTime::UNIX_EPOCH)
        .unwrap();
    assert!(fixture.templates.open(&key).unwrap().is_some());
    assert!(fixture.templates.list().unwrap()[0].is_intact);
}

#[test]
fn one_makes_it_and_the_others_know() {
    let fixture = Fixture::new();
    let key = TemplateKey::of(&inputs("python"));
    let draft = fixture.templates.begin(&key).unwrap().unwrap();
    assert!(fixture.templates.begin(&key).unwrap().is_none());
    let other = TemplateKey::of(&inputs("raw"));
    assert!(fixture.templates.begin(&other).unwrap().is_some());
    drop(draft);
    assert!(fixture.templates.begin(&key).unwrap().is_some());
}

#[test]
fn what_a_dead_maker_left_is_swept() {
    let fixture = Fixture::new();
    let key = fixture.make("python");
    let left = fixture.directory.path().join("templates/tmp/work-1-dead");
    fs::create_dir(&left).unwrap();
    fs::write(left.with_extension("lock"), "").unwrap();
    drop(fixture.templates.begin(&key).unwrap());
    assert!(!left.exists());
    assert!(fixture.templates.open(&key).unwrap().is_some());
}

#[test]
fn pruning_takes_the_unwanted_and_then_the_least_recently_used() {
    let fixture = Fixture::new();
    let keys = ["a", "b", "c", "d"].map(|language| fixture.make(language));
    for (key, second) in keys.iter().zip([30, 10, 40, 20]) {
        let directory = File::open(fixture.file(key, "")).unwrap();
        let time = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(second);
        directory
            .set_times(std::fs::FileTimes::new().set_modified(time))
            .unwrap();
    }
    let has = || keys.each_ref().map(|key| fixture.templates.has(key));
    let unwanted = |manifest: &TemplateManifest| manifest.key != keys[3].as_str();
    let report = fixture.templates.prune(u64::MAX, unwanted).unwrap();
    assert_eq!((report.removed, has()), (1, [true, true, true, false]));
    let one = fixture.templates.list().unwrap()[0].bytes;
    assert_eq!(
        fixture.templates.prune(2 * one, |_| true).unwrap().removed,
        1
    );
    assert_eq!(has(), [true, false, true, false]);
    // One that is open stays usable.
    let open = fixture.templates.open(&keys[2]).unwrap().unwrap();
    assert_eq!(fixture.templates.prune(0, |_| true).unwrap().removed, 2);
    open.copy_ram_to(&tempfile::tempfile().unwrap()).unwrap();
}
