//! Many at once.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use super::*;

/// One less when it is dropped, also by a panic.
struct Countdown<'a>(&'a AtomicUsize);

impl Drop for Countdown<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Each thread with a store handle of its own: their locks exclude each other as those of processes do.
#[test]
fn whoever_opens_makes_and_prunes_at_once_finds_whole_templates() {
    const TURNS: usize = 60;
    let fixture = fixture();
    let root = fixture.directory.path();
    let turn = |templates: &Templates, language: &str, fill: u8| {
        if let Some(template) = templates.open(&key(language)).unwrap() {
            let copy = memory_file();
            template.copy_ram_to(&copy).unwrap();
            assert!(contents(&copy) == contents(&memory(fill)));
            assert_eq!(template.state(), language.as_bytes());
        } else if let Some(draft) = templates.create(&key(language)).unwrap() {
            let state = language.as_bytes();
            draft
                .finish(inputs(language), &memory(fill), state)
                .unwrap();
        }
    };

    let makers = AtomicUsize::new(3);
    thread::scope(|scope| {
        for (language, fill) in [("python", 1), ("shell", 2), ("python", 1)] {
            let makers = &makers;
            scope.spawn(move || {
                let done = Countdown(makers);
                let templates = open_store(root);
                for _ in 0..TURNS {
                    turn(&templates, language, fill);
                }
                drop(done);
            });
        }

        let templates = open_store(root);
        for max_bytes in [u64::MAX, u64::MAX, 0].iter().cycle() {
            assert!(templates.prune(*max_bytes, |_| true).unwrap().removed <= 2);
            assert!(templates.list().unwrap().len() <= 2);
            if makers.load(Ordering::SeqCst) == 0 {
                break;
            }
        }
    });
    fixture.templates.prune(0, |_| true).unwrap();
    assert!(fixture.names().is_empty(), "{:?}", fixture.names());
}

/// Whether a template is thrown away depends on what lies there when it is done, not when it was read.
#[test]
fn one_that_was_replaced_is_not_thrown_away_for_the_one_before() {
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
    // Nor is it what the one before is read from.
    assert!(Template::load(&before).is_err() && !before.is_current());
}

#[test]
fn of_many_that_begin_at_once_one_makes_it() {
    let fixture = fixture();
    let templates = &fixture.templates;
    let drafts: Vec<_> = thread::scope(|scope| {
        let create = || scope.spawn(|| templates.create(&key("python")).unwrap());
        let all: Vec<_> = (0..8).map(|_| create()).collect();
        all.into_iter().map(|one| one.join().unwrap()).collect()
    });

    assert_eq!(drafts.iter().flatten().count(), 1);
}
