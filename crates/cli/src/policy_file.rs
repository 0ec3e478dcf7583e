use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use anyhow::Context;
use fumehood_engine::policy::{DOCUMENT_BYTES, Document, Policy, RuleSpec};

/// What a policy is called that no file gives.
const COMMAND_LINE: &str = "command line";

/// The policy of a file and of words, either of which may be missing.
pub(crate) fn load(file: Option<&Path>, words: &[String]) -> anyhow::Result<Policy> {
    named(document(file, words)?, file)
}

/// What a file and words say, either of which may be missing.
pub(crate) fn document(file: Option<&Path>, words: &[String]) -> anyhow::Result<Document> {
    let mut document = match file {
        Some(file) => read(file).with_context(|| format!("{} is no policy", file.display()))?,
        None => Document::default(),
    };
    for word in words {
        let entry = RuleSpec::parse_word(word).with_context(|| format!("--allow {word}"))?;
        document.allow.push(entry);
    }
    Ok(document)
}

/// The policy that it describes, called as its file is.
pub(crate) fn named(document: Document, file: Option<&Path>) -> anyhow::Result<Policy> {
    let stem = file.and_then(Path::file_stem).map(OsStr::to_string_lossy);
    let name = stem.as_deref().unwrap_or(COMMAND_LINE);
    document
        .policy(name)
        .with_context(|| format!("the policy `{name}` cannot be"))
}

fn read(file: &Path) -> anyhow::Result<Document> {
    let mut text = String::new();
    // One byte more than may be: then its size is complained of.
    let bound = DOCUMENT_BYTES as u64 + 1;
    File::open(file)?.take(bound).read_to_string(&mut text)?;
    Ok(match file.extension() {
        Some(json) if json == "json" => Document::parse_json(&text)?,
        _ => Document::parse_toml(&text)?,
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
    fn a_file_and_words_are_one_policy() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("work.toml");
        std::fs::write(&file, POLICY).unwrap();
        let policy = load(Some(&file), &["example.com:8443".into()]).unwrap();
        assert_eq!(policy.name, "work");
        assert_eq!(policy.rules[2].to_string(), "example.com:8443");
        assert_eq!(policy.rules[2].id.as_ref(), "allow-3");
        assert_eq!(load(None, &[]).unwrap(), Policy::nothing(COMMAND_LINE));
    }

    #[test]
    fn an_error_has_its_file_and_line() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("bad.toml");
        std::fs::write(&file, "[[allow]]\nhost = \"example.com\"\nport = 1\n").unwrap();
        let error = format!("{:#}", load(Some(&file), &[]).unwrap_err());
        let start = format!(
            "{} is no policy: line 3: `allow[0].port`: unknown field `port`",
            file.display()
        );
        assert!(error.starts_with(&start), "{error}");
    }
}
