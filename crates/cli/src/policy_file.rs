//! Network policies from files and from rules on the command line.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use anyhow::Context;
use fumehood_engine::policy::{Document, MAX_DOCUMENT_BYTES, Policy, RuleSpec};

/// The name of a policy that has no file.
const COMMAND_LINE: &str = "command line";

/// Reads the policy of an optional file, extended by `rules`.
///
/// # Errors
/// The file cannot be read or parsed, a rule cannot be parsed, or the policy is invalid.
pub(crate) fn load_policy(file: Option<&Path>, rules: &[String]) -> anyhow::Result<Policy> {
    build_policy(load_document(file, rules)?, file)
}

/// Reads the policy document of an optional file, extended by `rules`. The policy that it describes is not checked.
///
/// # Errors
/// The file cannot be read or parsed, or a rule cannot be parsed.
pub(crate) fn load_document(file: Option<&Path>, rules: &[String]) -> anyhow::Result<Document> {
    let mut document = match file {
        Some(file) => read_document(file)
            .with_context(|| format!("cannot parse policy {}", file.display()))?,
        None => Document::default(),
    };

    for rule in rules {
        let spec = RuleSpec::parse_word(rule).with_context(|| format!("--allow {rule}"))?;
        document.allow.push(spec);
    }
    Ok(document)
}

/// Builds the policy of a document, named after its file.
///
/// # Errors
/// The policy is invalid.
pub(crate) fn build_policy(document: Document, file: Option<&Path>) -> anyhow::Result<Policy> {
    let stem = file.and_then(Path::file_stem).map(OsStr::to_string_lossy);
    let name = stem.as_deref().unwrap_or(COMMAND_LINE);

    document
        .policy(name)
        .with_context(|| format!("invalid policy `{name}`"))
}

fn read_document(file: &Path) -> anyhow::Result<Document> {
    // Read one byte more than allowed, so that the parser reports the size.
    let limit = MAX_DOCUMENT_BYTES as u64 + 1;
    let mut text = String::new();
    File::open(file)?.take(limit).read_to_string(&mut text)?;

    let is_json = file
        .extension()
        .is_some_and(|extension| extension == "json");
    Ok(if is_json {
        Document::parse_json(&text)?
    } else {
        Document::parse_toml(&text)?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: &str = r#"
        [[allow]]
        id = "api"
        host = "api.example.com"
        terminate = true
        methods = ["GET"]
        [[allow]]
        addresses = ["10.1.0.0/16"]
        ports = [5432]
        [[secret]]
        name = "API_TOKEN"
        host = "api.example.com"
    "#;

    #[test]
    fn rules_extend_the_policy_of_a_file() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("work.toml");
        std::fs::write(&file, POLICY).unwrap();

        let policy = load_policy(Some(&file), &["example.com:8443".into()]).unwrap();

        assert_eq!(policy.name, "work");
        assert_eq!(policy.rules[2].to_string(), "example.com:8443");
        assert_eq!(policy.rules[2].id.as_ref(), "allow-3");
        assert_eq!(
            load_policy(None, &[]).unwrap(),
            Policy::nothing(COMMAND_LINE)
        );
    }

    #[test]
    fn an_error_names_its_file_and_line() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("bad.toml");
        std::fs::write(&file, "[[allow]]\nhost = \"example.com\"\nport = 1\n").unwrap();

        let error = format!("{:#}", load_policy(Some(&file), &[]).unwrap_err());

        let start = format!(
            "cannot parse policy {}: line 3: `allow[0].port`: unknown field `port`",
            file.display()
        );
        assert!(error.starts_with(&start), "{error}");
    }
}
