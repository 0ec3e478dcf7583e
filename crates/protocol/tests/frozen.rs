//! The published JSON schema and the tables of `docs/reference/protocol.md` must match the types.
//!
//! `UPDATE=1 cargo test -p fumehood-protocol --features schema` regenerates the schema and the table of
//! limits. A change of the schema is a change of the protocol and belongs in the CHANGELOG, unless only descriptions changed.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};

use fumehood_protocol::{BLOCKED_NAMES, BLOCKED_PREFIXES, LIMITS};

fn docs_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs")
}

fn page() -> PathBuf {
    docs_dir().join("reference/protocol.md")
}

fn specification() -> String {
    std::fs::read_to_string(page()).unwrap()
}

/// Replaces the rows of the table of limits by those of the code.
fn update_limits() {
    const HEAD: &str = "| name | default | reason |\n| --- | --- | --- |\n";
    let text = specification();
    let (before, rest) = text.split_once(HEAD).unwrap();
    let after: Vec<_> = rest
        .lines()
        .skip_while(|line| line.starts_with('|'))
        .collect();

    let mut rows = String::new();
    for row in LIMITS {
        rows += &format!("| `{}` | {} | {} |\n", row.name, row.default, row.reason);
    }
    let after = after.join("\n") + "\n";
    std::fs::write(page(), [before, HEAD, &rows, &after].concat()).unwrap();
}

#[cfg(feature = "schema")]
#[test]
fn the_schema_has_not_drifted() {
    use fumehood_protocol::{Request, Response};

    let schema = serde_json::json!({
        "title": "fumehood protocol, versions 0 and 1",
        "request": schemars::schema_for!(Request),
        "response": schemars::schema_for!(Response),
    });
    let current = serde_json::to_string_pretty(&schema).unwrap() + "\n";

    let path = docs_dir().join("protocol.schema.json");
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, &current).unwrap();
    }

    let frozen = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        current == frozen,
        "docs/protocol.schema.json does not match the types; see the head of this file"
    );
}

#[test]
fn the_specification_lists_every_limit() {
    if std::env::var_os("UPDATE").is_some() {
        update_limits();
    }
    let text = specification();
    for row in LIMITS {
        let line = format!("| `{}` | {} | {} |", row.name, row.default, row.reason);
        assert!(
            text.contains(&line),
            "docs/reference/protocol.md lacks the row\n{line}"
        );
    }
}

#[test]
fn the_specification_lists_every_blocked_name() {
    let text = specification();
    for name in BLOCKED_NAMES {
        assert!(
            text.contains(&format!("`{name}`")),
            "docs/reference/protocol.md lacks the blocked name {name}"
        );
    }
    for prefix in BLOCKED_PREFIXES {
        assert!(
            text.contains(&format!("`{prefix}*`")),
            "docs/reference/protocol.md lacks the blocked prefix {prefix}"
        );
    }
}
