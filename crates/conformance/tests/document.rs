//! The clauses of the specification, the suite and the published reports are the same.
#![allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "a test fails by panicking"
)]

use std::collections::BTreeSet;
use std::path::Path;

use fumehood_conformance::clauses;

fn read(path: &str) -> String {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs");
    std::fs::read_to_string(docs.join(path)).unwrap()
}

/// Identifiers that stand between these two texts, each once.
fn identifiers(text: &str, before: &str, after: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for part in text.split(before).skip(1) {
        let Some((id, _)) = part.split_once(after) else {
            continue;
        };
        let Some((family, number)) = id.split_once('-') else {
            continue;
        };

        let is_identifier =
            family.bytes().all(|byte| byte.is_ascii_uppercase()) && number.parse::<u32>().is_ok();
        if is_identifier {
            assert!(found.insert(id.to_owned()), "{id} occurs twice");
        }
    }
    found
}

fn tested() -> BTreeSet<String> {
    clauses()
        .iter()
        .map(|clause| clause.id.to_owned())
        .collect()
}

#[test]
fn every_clause_of_the_specification_is_tested_and_every_test_has_its_clause() {
    let specified = identifiers(&read("reference/protocol.md"), "[", "]");
    assert_eq!(specified, tested());
}

#[test]
fn the_published_reports_have_every_clause() {
    for report in ["conformance/report-host.md", "conformance/report-vm.md"] {
        let text = read(report);
        assert_eq!(identifiers(&text, "\n| `", "`"), tested(), "{report}");
        assert!(!text.contains("| fail |"), "{report} has a failure");
    }
}
