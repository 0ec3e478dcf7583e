//! The golden transcripts of `docs/conformance`. `UPDATE=1` records them again.

use std::path::Path;

use fumehood_conformance::replay;

use crate::agent::Agent;

#[test]
fn transcripts_are_repeated() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/conformance");
    let update = std::env::var_os("UPDATE").is_some();
    let mut count = 0;

    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "txt") {
            continue;
        }

        let recorded = std::fs::read_to_string(&path).unwrap();
        let agent = Agent::start(&["--no-token"]);
        let replayed = replay(&agent.address, &recorded)
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        if update {
            std::fs::write(&path, replayed).unwrap();
        } else {
            assert_eq!(
                replayed,
                recorded,
                "{}; UPDATE=1 records it again",
                path.display()
            );
        }
        count += 1;
    }
    assert!(count >= 7, "only {count} transcripts");
}
