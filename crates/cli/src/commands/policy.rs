//! `fumehood policy`: checks a network policy, and explains its decisions.

use std::fmt::Write as _;
use std::process::ExitCode;

use fumehood_engine::policy::{Explanation, Policy, Step, explain};
use serde_json::{Value, json};

use crate::args::{PolicyArgs, PolicyCheckArgs, PolicyCommand, PolicyExplainArgs};
use crate::exit_code::DENIED;
use crate::io::print_line;
use crate::policy_file::load_policy;

pub(crate) fn run(args: &PolicyArgs) -> anyhow::Result<ExitCode> {
    match &args.command {
        PolicyCommand::Check(args) => print_rules(args),
        PolicyCommand::Explain(args) => print_explanation(args),
    }
}

fn print_rules(args: &PolicyCheckArgs) -> anyhow::Result<ExitCode> {
    let policy = load_policy(Some(&args.file), &[])?;

    if args.json {
        print_line(&serde_json::to_value(&policy)?)?;
    } else {
        print_line(&rules_text(&policy).trim_end())?;
    }
    Ok(ExitCode::SUCCESS)
}

fn print_explanation(args: &PolicyExplainArgs) -> anyhow::Result<ExitCode> {
    let policy = load_policy(args.policy.as_deref(), &args.allow)?;
    let explanation = explain(&policy, &args.target, args.address, &args.method);

    let target = args.target.to_string();
    if args.json {
        print_line(&explanation_json(&target, &explanation)?)?;
    } else {
        print_line(&explanation_text(&target, &explanation).trim_end())?;
    }

    Ok(if explanation.is_allowed {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(DENIED)
    })
}

/// Returns the rules and secrets of a policy, one per line.
fn rules_text(policy: &Policy) -> String {
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

/// Returns the steps of a decision as text, with the rule or the reason of each.
fn explanation_text(target: &str, explanation: &Explanation) -> String {
    let (policy, verdict) = (&explanation.policy, verdict(explanation.is_allowed));
    let mut text = format!("{verdict} {target} by the policy `{policy}`\n");

    for step in &explanation.steps {
        write_step(&mut text, step);
    }

    // The last step is the one that was denied, if any.
    let last = explanation.steps.last();
    if let Some(advice) = last.and_then(|step| step.decision.advice()) {
        let _ = writeln!(text, "to allow it: {advice}");
    }
    if explanation.is_assumed {
        text.push_str("note: assumes a public address; use --address to set another\n");
    }
    text
}

fn write_step(text: &mut String, step: &Step) {
    let Step {
        what,
        decision,
        rule_text,
    } = step;

    let _ = writeln!(text, "  {} {what}", verdict(decision.is_allowed()));
    let _ = match (&decision.rule, rule_text) {
        (Some(id), Some(rule)) => writeln!(text, "       rule `{id}`: {rule}"),
        _ => {
            let (sentence, code) = (decision.sentence(), decision.reason.code());
            writeln!(text, "       {sentence} ({code})")
        }
    };
}

/// Returns the verdict as a word of fixed width.
fn verdict(is_allowed: bool) -> &'static str {
    if is_allowed { "allow" } else { "deny " }
}

fn explanation_json(target: &str, explanation: &Explanation) -> anyhow::Result<Value> {
    let steps: Vec<_> = explanation
        .steps
        .iter()
        .map(step_json)
        .collect::<anyhow::Result<_>>()?;

    Ok(json!({
        "target": target,
        "policy": explanation.policy,
        "allowed": explanation.is_allowed,
        "address": explanation.address,
        "address_assumed": explanation.is_assumed,
        "steps": steps,
    }))
}

fn step_json(step: &Step) -> anyhow::Result<Value> {
    Ok(json!({
        "what": step.what,
        "rule_text": step.rule_text,
        "decision": serde_json::to_value(&step.decision)?,
        "sentence": step.decision.sentence(),
        "advice": step.decision.advice(),
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

    fn explain_text(url: &str, method: &str) -> String {
        let policy = Policy::parse_toml(POLICY, "work").unwrap();
        let target = url.parse().unwrap();
        let explanation = explain(&policy, &target, None, &method.parse().unwrap());
        explanation_text(url, &explanation)
    }

    #[test]
    fn an_allowed_request_names_its_rule_at_each_step() {
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
note: assumes a public address; use --address to set another
";
        assert_eq!(explain_text("https://api.example.com", "GET"), expected);
    }

    #[test]
    fn a_denial_ends_with_advice() {
        let expected = "\
deny  https://other.example:8443 by the policy `work`
  deny  look up other.example
       no rule allows it (no_rule)
to allow it: --allow other.example:8443, or in a policy file `[[allow]]` with `host = \"other.example\"`, `ports = [8443]`
note: assumes a public address; use --address to set another
";
        assert_eq!(explain_text("https://other.example:8443", "GET"), expected);
    }

    #[test]
    fn a_literal_address_is_not_assumed() {
        let expected = "\
deny  tcp://10.1.2.3:22 by the policy `work`
  deny  connect to 10.1.2.3, port 22
       rule `allow-2` allows this host, but not this port (port_not_allowed)
to allow it: --allow 10.1.2.3:22, or in a policy file `[[allow]]` with `addresses = [\"10.1.2.3\"]`, `ports = [22]`; or add the port to rule `allow-2`
";
        assert_eq!(explain_text("tcp://10.1.2.3:22", "GET"), expected);
    }

    #[test]
    fn json_has_stable_codes() {
        let policy = Policy::parse_toml(POLICY, "work").unwrap();
        let target = "http://api.example.com".parse().unwrap();
        let explanation = explain(&policy, &target, None, &"POST".parse().unwrap());
        let object = explanation_json("http://api.example.com", &explanation).unwrap();
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
        assert_eq!(rules_text(&policy), expected);
        assert_eq!(rules_text(&Policy::nothing("none")), "nothing is allowed\n");
    }
}
