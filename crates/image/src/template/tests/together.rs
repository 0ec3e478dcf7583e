//! Concurrent use.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use super::*;

/// Decrements the counter when dropped, also by a panic.
struct Countdown<'a>(&'a AtomicUsize);

impl Drop for Countdown<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Each thread has its own store handle, so that their locks exclude each other like those of processes.
#[test]
fn concurrent_use_finds_only_complete_templates() {
    const ROUNDS: usize = 60;
    let fixture = fixture();
    let root = fixture.directory.path();
    let round = |templates: &Templates, language: &str, fill: u8| {
        if let Some(template) = templates.open(&key(language)).unwrap() {
            let copy = memory_file();
            template.copy_ram_to(&copy).unwrap();
            assert!(contents(&copy) == contents(&memory(fill)));
            assert_eq!(template.state(), language.as_bytes());
        } else if let Some(writer) = templates.create(&key(language)).unwrap() {
            let state = language.as_bytes();
            writer
                .finish(inputs(language), &memory(fill), state)
                .unwrap();
        }
    };

    let writers = AtomicUsize::new(3);
    thread::scope(|scope| {
        for (language, fill) in [("python", 1), ("shell", 2), ("python", 1)] {
            let writers = &writers;
            scope.spawn(move || {
                let done = Countdown(writers);
                let templates = open_store(root);
                for _ in 0..ROUNDS {
                    round(&templates, language, fill);
                }
                drop(done);
            });
        }

        let templates = open_store(root);
        for max_bytes in [u64::MAX, u64::MAX, 0].iter().cycle() {
            assert!(templates.prune(*max_bytes, |_| true).unwrap().removed <= 2);
            assert!(templates.list().unwrap().len() <= 2);
            if writers.load(Ordering::SeqCst) == 0 {
                break;
            }
        }
    });
    fixture.templates.prune(0, |_| true).unwrap();
    assert!(fixture.names().is_empty(), "{:?}", fixture.names());
}

/// A discard decides by the entry that exists then, not by the one that was read.
#[test]
fn a_replaced_template_is_not_discarded_for_its_predecessor() {
    let fixture = fixture();
    let key = fixture.make("python");
    let before = fixture
        .templates
        .cache
        .entry(key.as_str())
        .unwrap()
        .unwrap();
    fs::remove_file(fixture.part(&key, STATE)).unwrap();
    let error = Template::load(&before).unwrap_err();
    fixture.make("python");
    fixture.templates.cache.discard(&before, &error);
    assert!(fixture.is_opened(&key));
    // The old handle does not read from the new entry either.
    assert!(Template::load(&before).is_err() && !before.is_current());
}

#[test]
fn only_one_of_many_concurrent_writers_is_created() {
    let fixture = fixture();
    let templates = &fixture.templates;
    let writers: Vec<_> = thread::scope(|scope| {
        let create = || scope.spawn(|| templates.create(&key("python")).unwrap());
        let all: Vec<_> = (0..8).map(|_| create()).collect();
        all.into_iter().map(|one| one.join().unwrap()).collect()
    });

    assert_eq!(writers.iter().flatten().count(), 1);
}
