//! Started in QEMU's place by the tests, by the same launcher with the same order: tries what a QEMU that
//! has fallen would try, and says on standard error, in one line of JSON, which walls held.

mod files;
mod identity;
mod kernel;
mod processes;

use serde_json::{Map, Value, json};

/// What was tried at one wall: nothing, if it held; else what got through.
type Breaches = Vec<String>;

/// Attempts at a wall.
type Attempts = fn() -> Breaches;

/// All walls.
const WALLS: [(&str, Attempts); 13] = [
    ("files-read", files::read),
    ("files-write", files::write),
    ("root", files::root),
    ("descriptors", files::descriptors),
    ("templates", files::templates),
    ("devices", files::devices),
    ("processes", processes::others),
    ("memory", processes::memory),
    ("survival", processes::survival),
    ("sockets", kernel::sockets),
    ("kernel", kernel::calls),
    ("privileges", identity::privileges),
    ("identity", identity::identity),
];

fn main() {
    if std::env::args().nth(1).as_deref() == Some(processes::SURVIVE) {
        processes::survive();
    }
    // Some attempts would change a host that lets them: nothing is tried where no launcher was before.
    if !identity::has_given_up_rights() {
        eprintln!(
            "{}",
            json!({ "launcher": { "breached": ["it was started with rights"] } })
        );
        return;
    }
    let mut verdicts = Map::new();
    for (wall, attempts) in WALLS {
        let breaches = attempts();
        let verdict = if breaches.is_empty() {
            Value::from("held")
        } else {
            json!({ "breached": breaches })
        };
        verdicts.insert(wall.into(), verdict);
    }
    eprintln!("{}", Value::Object(verdicts));
}

/// What got through, of attempts that should all fail.
fn succeeded<T, E>(attempts: impl IntoIterator<Item = (String, Result<T, E>)>) -> Breaches {
    let attempts = attempts.into_iter();
    attempts
        .filter_map(|(what, result)| result.is_ok().then_some(what))
        .collect()
}
