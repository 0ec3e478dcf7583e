use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
use fumehood_engine::policy::{
    Document, Explanation, MAX_DOCUMENT_BYTES, Policy, RuleSpec, Step, explain,
};
use serde_json::{Value, json};

use super::say;
use crate::args::{self, PolicyCheck, PolicyCommand, PolicyExplain};
use crate::exit::DENIED;

/// What a policy is called that no file gives.
const COMMAND_LINE: &str = "command line";

pub(crate) fn run(args: &args::Policy) -> anyhow::Result<ExitCode> {
    match &args.command {
        PolicyCommand::Check(args) => check(args),
        PolicyCommand::Explain(args) => explanation(args),
    }
}

fn check(args: &PolicyCheck) -> anyhow::Result<ExitCode> {
    let policy = load(Some(&args.file), &[])?;
    match args.json {
        true => say(&serde_json::to_value(&policy)?)?,
        false => say(&rules(&policy).trim_end())?,
    }
    Ok(ExitCode::SUCCESS)
}

fn explanation(args: &PolicyExplain) -> anyhow::Result<ExitCode> {
    let policy = load(args.policy.as_deref(), &args.allow)?;
    let explanation = explain(&policy, &args.target, args.address, &args.method);
    match args.json {
        true => say(&object(&args.target.to_string(), &explanation)?)?,
        false => say(&lines(&args.target.to_string(), &explanation).trim_end())?,
    }
    Ok(match explanation.is_allowed {
        true => ExitCode::SUCCESS,
        false => ExitCode::from(DENIED),
    })
}

/// The policy of a file and of words, either of which may be missing.
fn load(file: Option<&Path>, words: &[String]) -> anyhow::Result<Policy> {
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
    let bound = MAX_DOCUMENT_BYTES as u64 + 1;
    File::open(file)?.take(bound).read_to_string(&mut text)?;
    Ok(match file.extension() {
        Some(json) if json == "json" => Document::parse_json(&text)?,
        _ => Document::parse_toml(&text)?,
    })
}

fn rules(policy: &Policy) -> String {
    let mut text = String::new();
    for rule in &policy.rules {
        let _ = writeln!(text, "{}: {rule}", rule.id);
    }
    for secret in &policy.secrets {
        let hosts: Vec<_> = secret.hosts.iter().map(AsRef::as_ref).collect();
        let headers: Vec<_> = secret.headers.iter().map(AsRef::as_ref).collect();
        let (hosts, headers) = (hosts.join(","), headers.join(","));
        let _ = writeln!(text, "secret {}: to {hosts} in {headers}", secret.name);
    }
    if text.is_empty() {
        text.push_str("nothing is allowed\n");
    }
    text
}

fn lines(target: &str, explanation: &Explanation) -> String {
    let (policy, verdict) = (&explanation.policy, word(explanation.is_allowed));
    let mut text = format!("{verdict} {target} by the policy `{policy}`\n");
    for Step {
        what,
        decision,
        rule_text,
    } in &explanation.steps
    {
        let _ = writeln!(text, "  {} {what}", word(decision.is_allowed()));
        match (&decision.rule, rule_text) {
            (Some(id), Some(rule)) => {
                let _ = writeln!(text, "       rule `{id}`: {rule}");
            }
            _ => {
                let _ = writeln!(
                    text,
                    "       {} ({})",
                    decision.sentence(),
                    decision.reason.code()
                );
            }
        }
    }
    let last = explanation.steps.last();
    if let Some(advice) = last.and_then(|step| step.decision.advice()) {
        let _ = writeln!(text, "to allow it: {advice}");
    }
    if explanation.is_assumed {
        text.push_str("note: taken to be at a public address; --address says another\n");
    }
    text
}

fn word(is_allowed: bool) -> &'static str {
    if is_allowed { "allow" } else { "deny " }
}

fn object(target: &str, explanation: &Explanation) -> anyhow::Result<Value> {
    let steps = explanation.steps.iter().map(|step| {
        let mut object = json!({ "what": step.what, "rule_text": step.rule_text });
        object["decision"] = serde_json::to_value(&step.decision)?;
        object["sentence"] = step.decision.sentence().into();
        object["advice"] = step.decision.advice().into();
        Ok(object)
    });
    Ok(json!({
        "target": target,
        "policy": explanation.policy,
        "allowed": explanation.is_allowed,
        "address": explanation.address,
        "address_assumed": explanation.is_assumed,
        "steps": steps.collect::<anyhow::Result<Vec<_>>>()?,
    }))
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

    fn explained(url: &str, method: &str) -> String {
        let policy = Policy::parse_toml(POLICY, "work").unwrap();
        let target = url.parse().unwrap();
        let explanation = explain(&policy, &target, None, &method.parse().unwrap());
        lines(url, &explanation)
    }

    #[test]
    fn what_is_allowed_names_its_rule_at_each_step() {
        let expected = "\
allow https://api.example.com by the policy `work`
  allow look up api.example.com
       rule `api`: api.example.com:80,443 only GET terminated
  allow resolve it to a public address
       rule `api`: api.example.com:80,443 only GET terminated
  allow connect to a public address, port 443
       rule `api`: api.example.com:80,443 only GET terminated
  allow speak TLS for api.example.com
       rule `api`: api.example.com:80,443 only GET terminated
  allow request GET of api.example.com
       rule `api`: api.example.com:80,443 only GET terminated
note: taken to be at a public address; --address says another
";
        assert_eq!(explained("https://api.example.com", "GET"), expected);
    }

    #[test]
    fn a_denial_ends_with_what_to_do() {
        let expected = "\
deny  https://other.example:8443 by the policy `work`
  deny  look up other.example
       no rule allows it (no_rule)
to allow it: --allow other.example:8443, or in a policy file `[[allow]]` with `host = \"other.example\"`, `ports = [8443]`
note: taken to be at a public address; --address says another
";
        assert_eq!(explained("https://other.example:8443", "GET"), expected);
    }

    #[test]
    fn an_address_is_not_assumed() {
        let expected = "\
deny  tcp://10.1.2.3:22 by the policy `work`
  deny  connect to 10.1.2.3, port 22
       rule `allow-2` allows this host, but not this port (port_not_allowed)
to allow it: --allow 10.1.2.3:22, or in a policy file `[[allow]]` with `addresses = [\"10.1.2.3\"]`, `ports = [22]`; or add the port to rule `allow-2`
";
        assert_eq!(explained("tcp://10.1.2.3:22", "GET"), expected);
    }

    #[test]
    fn json_has_the_same_and_stable_codes() {
        let policy = Policy::parse_toml(POLICY, "work").unwrap();
        let target = "http://api.example.com".parse().unwrap();
        let explanation = explain(&policy, &target, None, &"POST".parse().unwrap());
        let object = object("http://api.example.com", &explanation).unwrap();
        assert_eq!(object["allowed"], false);
        let last = object["steps"].as_array().unwrap().last().unwrap();
        let expected = json!({
            "verdict": "deny",
            "rule": null,
            "reason": { "code": "method_not_allowed", "method": "POST", "rule": "api" },
            "subject": { "name": "api.example.com", "address": "203.0.113.1", "port": 80 },
        });
        assert_eq!(last["decision"], expected);
    }

    #[test]
    fn rules_are_printed_one_by_one() {
        let policy = Policy::parse_toml(POLICY, "work").unwrap();
        let expected = "\
api: api.example.com:80,443 only GET terminated
allow-2: 10.1.0.0/16:5432
secret API_TOKEN: to api.example.com in authorization
";
        assert_eq!(rules(&policy), expected);
        assert_eq!(rules(&Policy::nothing("none")), "nothing is allowed\n");
    }

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
