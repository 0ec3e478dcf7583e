use super::error::{DocumentError, MAX_DOCUMENT_BYTES, MAX_RULES, MAX_SECRETS};
use super::format::Document;
use super::rule_spec::{MAX_RULE_ITEMS, RuleSpec, RuleSpecError};
use crate::package_index::{Ecosystem, Index};
use crate::policy::rule::{MAX_CONNECTIONS, NetworkLimits, Policy};
use crate::value::MAX_PORT_RANGES;

fn index(hosts: &[(&str, u16)]) -> Index {
    let hosts = hosts
        .iter()
        .map(|(host, port)| (host.parse().unwrap(), (*port).try_into().unwrap()));

    Index {
        urls: Vec::new(),
        hosts: hosts.collect(),
        credentials: Vec::new(),
    }
}

fn with_index(text: &str, index: &Index) -> Result<Policy, DocumentError> {
    Document::parse_toml(text)
        .unwrap()
        .policy_with("test", |_| Ok(index.clone()))
}

fn error(text: &str) -> String {
    Policy::parse_toml(text, "test").unwrap_err().to_string()
}

const WHOLE: &str = r#"
[[allow]]
host = "api.example.com"
ports = [443, "8000-8010"]
[[allow]]
id = "others"
host = ["a.example", "*.B.Example."]
terminate = true
methods = ["get"]
[[allow]]
addresses = ["10.1.0.0/16", "2001:db8::1"]
ports = "any"
[limits]
connections = 64
bytes_per_s = 1024
[[secret]]
name = "API_TOKEN"
host = "api.example.com"
header = ["X-Api-Key"]
"#;

#[test]
fn a_document_becomes_a_policy() {
    let policy = Policy::parse_toml(WHOLE, "work").unwrap();
    let shown: Vec<_> = policy
        .rules
        .iter()
        .map(|rule| format!("{} {rule}", rule.id))
        .collect();

    let expected = [
        "allow-1 api.example.com:443,8000-8010",
        "others a.example,*.b.example:80,443 only GET terminated",
        "allow-3 10.1.0.0/16,[2001:db8::1]:any",
    ];
    assert_eq!(shown, expected);
    assert_eq!(
        (policy.limits.connections, policy.limits.bytes_per_s),
        (64, Some(1024))
    );

    assert_eq!(
        policy.limits.lookups_per_s,
        NetworkLimits::default().lookups_per_s
    );

    assert_eq!(policy.secrets[0].headers[0].as_ref(), "x-api-key");
}

#[test]
fn json_and_toml_are_equivalent() {
    let document = Document::parse_toml(WHOLE).unwrap();
    let json = serde_json::to_string(&document).unwrap();
    assert_eq!(Document::parse_json(&json).unwrap(), document);
    let text = toml::to_string(&document).unwrap();
    assert_eq!(Document::parse_toml(&text).unwrap(), document);
}

#[test]
fn errors_have_a_line_and_a_field() {
    let unknown = error("[[allow]]\nhost = \"a.example\"\n\nprot = 1\n");
    assert!(
        unknown.starts_with("line 4: `allow[0].prot`: unknown field `prot`"),
        "{unknown}"
    );

    let host = error("[[allow]]\nhost = [\"a.example\", \"b_ü.example\"]");
    assert_eq!(
        host,
        "line 2: `allow[0].host[1]`: `b_ü.example` is not ASCII; write its xn-- form, as DNS uses it"
    );

    let rule = error("\n[[allow]]\naddresses = \"10.0.0.0/8\"");
    assert_eq!(
        rule,
        format!("line 2: `allow[0]`: {}", RuleSpecError::NoPorts)
    );
    assert!(error("[[allow]\n").starts_with("line 1: "));
    let json = Document::parse_json("{\"allow\": [\n{\"host\": 1}]}")
        .unwrap_err()
        .to_string();

    assert!(
        json.starts_with("line 2: `allow[0].host`: invalid type: integer `1`"),
        "{json}"
    );

    assert!(Document::parse_json("{} {}").is_err());
}

#[test]
fn contradictory_rules_are_rejected() {
    for (fields, expected) in [
        ("", RuleSpecError::NoSubject),
        (
            "host = \"a.example\"\nindex = \"python\"",
            RuleSpecError::HostAndIndex,
        ),
        (
            "index = \"python\"\nports = 1",
            RuleSpecError::IndexAndPorts,
        ),
        (
            "addresses = \"203.0.113.1\"\nports = 1\nterminate = true",
            RuleSpecError::TerminateWithoutHost,
        ),
        (
            "addresses = \"203.0.113.1\"\nports = 1\nraw = true",
            RuleSpecError::RawWithoutHost,
        ),
        (
            "host = \"a.example\"\nraw = true\nmethods = \"GET\"",
            RuleSpecError::RawAndRead,
        ),
        (
            "host = \"a.example\"\nraw = true\nterminate = true",
            RuleSpecError::RawAndRead,
        ),
        (
            "internet = true\nhost = \"a.example\"",
            RuleSpecError::InternetAndMore,
        ),
        (
            "internet = true\nmethods = \"GET\"",
            RuleSpecError::InternetAndMore,
        ),
        ("internet = false", RuleSpecError::NoSubject),
    ] {
        let error = error(&format!("[[allow]]\n{fields}"));
        assert_eq!(error, format!("line 1: `allow[0]`: {expected}"));
    }
}

#[test]
fn a_secret_needs_a_rule_that_reads_requests() {
    let secret = "[[secret]]\nname = \"T\"\nhost = \"a.example\"";
    let expected =
        "the secret `T` is for a.example, which no rule allows; add [[allow]] host = \"a.example\"";
    assert_eq!(error(secret), expected);
    assert_eq!(
        error(&format!("[[allow]]\nhost = \"*.a.example\"\n{secret}")),
        expected
    );

    let raw = error(&format!(
        "[[allow]]\nhost = \"*.example\"\nraw = true\n{secret}"
    ));
    assert!(raw.contains("rule `allow-1` forwards unread"), "{raw}");
    let allow = "[[allow]]\nhost = \"a.example\"";
    let policy = Policy::parse_toml(&format!("{allow}\n{secret}"), "test").unwrap();
    assert_eq!(policy.secrets[0].headers[0].as_ref(), "authorization");
    assert!(
        error(&format!("{allow}\n{secret}\n{secret}")).starts_with("two secrets have the name `T`")
    );
    assert!(error(&format!("{allow}\n{secret}\nheader = []")).contains("needs 1 to 64"));
    assert!(
        error(&format!("{allow}\n{secret}\nheader = \"Host\""))
            .contains("not a valid header for a secret")
    );
}

#[test]
fn ids_are_unique() {
    let text = "[[allow]]\nid = \"allow-2\"\nhost = \"a.example\"\n[[allow]]\nhost = \"b.example\"";
    assert!(error(text).starts_with("two rules have the id `allow-2`"));
}

#[test]
fn limits_are_enforced_exactly() {
    let rules = |count: usize| "[[allow]]\nhost=\"a.example\"\n".repeat(count);
    assert!(Policy::parse_toml(&rules(MAX_RULES), "test").is_ok());
    assert_eq!(
        error(&rules(MAX_RULES + 1)),
        DocumentError::TooManyRules(MAX_RULES + 1).to_string()
    );

    let hosts = |count: usize| format!("[[allow]]\nhost = [{}]", "\"a.example\",".repeat(count));
    assert!(Policy::parse_toml(&hosts(MAX_RULE_ITEMS), "test").is_ok());
    assert!(error(&hosts(MAX_RULE_ITEMS + 1)).contains("more than 64 entries in `host`"));

    let ports = |count: usize| {
        format!(
            "[[allow]]\nhost = \"a.example\"\nports = [{}]",
            "1,".repeat(count)
        )
    };
    assert!(Policy::parse_toml(&ports(MAX_PORT_RANGES), "test").is_ok());
    assert!(error(&ports(MAX_PORT_RANGES + 1)).contains("more than 32 ports"));

    let long = |bytes: usize| "#".repeat(bytes);
    assert!(Document::parse_toml(&long(MAX_DOCUMENT_BYTES)).is_ok());
    assert_eq!(
        error(&long(MAX_DOCUMENT_BYTES + 1)),
        DocumentError::TooLarge(MAX_DOCUMENT_BYTES + 1).to_string()
    );

    let connections = |count: u32| format!("[limits]\nconnections = {count}");
    assert!(Policy::parse_toml(&connections(MAX_CONNECTIONS), "test").is_ok());
    assert!(error(&connections(MAX_CONNECTIONS + 1)).contains("1 to 4096 are allowed"));
    assert!(error(&connections(0)).starts_with("limits.connections is 0"));
    assert!(error("[limits]\nbytes_per_s = 1023").starts_with("limits.bytes_per_s is 1023"));

    let secrets = |count: usize| {
        let secret = |n| format!("[[secret]]\nname = \"T{n}\"\nhost = \"a.example\"\n");
        rules(1) + &(0..count).map(secret).collect::<String>()
    };
    assert!(Policy::parse_toml(&secrets(MAX_SECRETS), "test").is_ok());
    assert_eq!(
        error(&secrets(MAX_SECRETS + 1)),
        DocumentError::TooManySecrets(MAX_SECRETS + 1).to_string()
    );
}

#[test]
fn an_index_becomes_rules_for_its_hosts_and_ports() {
    let index = index(&[
        ("a.test", 443),
        ("b.test", 443),
        ("c.test", 8080),
        ("203.0.113.9", 80),
    ]);

    let policy = with_index(
        "[[allow]]\nid = \"py\"\nindex = \"python\"\nmethods = \"GET\"\nterminate = true",
        &index,
    );

    let shown: Vec<_> = policy
        .unwrap()
        .rules
        .iter()
        .map(|rule| format!("{} {rule}", rule.id))
        .collect();

    let expected = [
        "py a.test,b.test:443 only GET terminated",
        "py-2 c.test:8080 only GET terminated",
        "py-3 203.0.113.9:80 only GET",
    ];

    assert_eq!(shown, expected);
}

#[test]
fn an_index_at_a_special_address_must_be_named() {
    let index = index(&[("10.0.0.5", 3141)]);
    let error = with_index("[[allow]]\nindex = \"python\"", &index).unwrap_err();
    assert_eq!(
        error,
        DocumentError::IndexAddress("10.0.0.5".parse().unwrap())
    );

    let policy = with_index(
        "[[allow]]\nindex = \"python\"\naddresses = \"10.0.0.5\"",
        &index,
    )
    .unwrap();

    assert_eq!(policy.rules[0].to_string(), "10.0.0.5:3141");
}

#[test]
fn an_ecosystem_has_one_name_in_documents_and_words() {
    for ecosystem in [Ecosystem::Python, Ecosystem::JavaScript] {
        let document = format!("[[allow]]\nindex = \"{ecosystem}\"");
        let document = Document::parse_toml(&document).unwrap();
        let word = RuleSpec::parse_word(&format!("index:{ecosystem}")).unwrap();
        assert_eq!(document.allow, [word]);
    }
}
