use std::net::IpAddr;

use super::decide::decide;
use super::outcome::{Decision, Handling, Reason, Verdict};
use super::query::{ClientProtocol, PolicyQuery};
use crate::policy::document::{Document, RuleSpec};
use crate::policy::rule::{NetworkLimits, Policy};
use crate::value::{Host, HostName, Method, RuleId};

const WEB: &str = "203.0.113.7";
const INSIDE: &str = "10.1.2.3";

fn policy(text: &str) -> Policy {
    Policy::parse_toml(text, "test").unwrap()
}

fn words(words: &[&str]) -> Policy {
    let specs = words.iter().map(|word| RuleSpec::parse_word(word).unwrap());
    let document = Document {
        allow: specs.collect(),
        ..Default::default()
    };
    document.policy("test").unwrap()
}

fn name(text: &str) -> HostName {
    text.parse().unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn connect_to(policy: &Policy, address: &str, port: u16, names: &[&str]) -> Decision {
    let names: Vec<_> = names.iter().map(|text| name(text)).collect();
    let address = ip(address);
    decide(
        policy,
        &PolicyQuery::Connect {
            address,
            port,
            names: &names,
        },
    )
}

fn say(policy: &Policy, names: &[&str], protocol: ClientProtocol<'_>) -> Decision {
    let names: Vec<_> = names.iter().map(|text| name(text)).collect();
    let address = ip(WEB);
    decide(
        policy,
        &PolicyQuery::FirstBytes {
            address,
            port: 443,
            names: &names,
            protocol,
        },
    )
}

fn tls(policy: &Policy, names: &[&str], server: Option<&str>) -> Decision {
    let server = server.map(name);
    let server_name = server.as_ref();
    say(
        policy,
        names,
        ClientProtocol::Tls {
            server_name,
            encrypted: false,
        },
    )
}

fn ask(
    policy: &Policy,
    tls: Option<&str>,
    host: &str,
    host_port: Option<u16>,
    method: &str,
) -> Decision {
    let (names, host) = ([name("a.example")], host.parse().unwrap());
    let (tls, address) = (tls.map(name), ip(WEB));
    let tls = tls.as_ref();

    decide(
        policy,
        &PolicyQuery::Request {
            address,
            port: 80,
            names: &names,
            tls,
            host: &host,
            host_port,
            method,
            upgrades: false,
        },
    )
}

fn pass(decision: &Decision) -> Option<Handling> {
    match decision.verdict {
        Verdict::Allow(pass) => Some(pass),
        Verdict::Deny => None,
    }
}

#[test]
fn only_allowed_names_are_resolved() {
    let policy = words(&["a.example", "*.b.example"]);
    let rule = |text| {
        let name = name(text);
        decide(&policy, &PolicyQuery::Lookup { name: &name })
            .rule
            .map(|id| id.to_string())
    };
    assert_eq!(rule("a.example").as_deref(), Some("allow-1"));
    assert_eq!(rule("x.y.b.example").as_deref(), Some("allow-2"));
    assert_eq!(
        (rule("b.example"), rule("x.a.example"), rule("notb.example")),
        (None, None, None)
    );
}

#[test]
fn a_name_does_not_open_a_special_address() {
    let closed = words(&["a.example"]);
    let open = policy("[[allow]]\nhost = \"a.example\"\naddresses = [\"10.0.0.0/8\"]");
    let name = name("a.example");

    for (address, is_open) in [
        (WEB, true),
        (INSIDE, false),
        ("169.254.169.254", false),
        ("::1", false),
    ] {
        let question = PolicyQuery::Resolved {
            name: &name,
            address: ip(address),
        };

        assert_eq!(
            decide(&closed, &question).is_allowed(),
            is_open,
            "{address}"
        );

        assert_eq!(
            connect_to(&closed, address, 443, &["a.example"]).is_allowed(),
            is_open,
            "{address}"
        );

        let is_open = is_open || address == INSIDE;
        assert_eq!(decide(&open, &question).is_allowed(), is_open, "{address}");
    }

    let unnamed = connect_to(&closed, INSIDE, 443, &[]);
    assert_eq!(unnamed.reason, Reason::SpecialAddress { range: "private" });
    assert!(
        unnamed
            .advice()
            .unwrap()
            .contains("`addresses = [\"10.1.2.3\"]`, `ports = [443]`")
    );

    let denied = connect_to(&closed, INSIDE, 443, &["a.example"]);
    assert_eq!(denied.reason, Reason::SpecialAddress { range: "private" });
    let advice = denied.advice().unwrap();
    assert!(advice.contains("addresses = [\"10.1.2.3\"]"), "{advice}");
}

#[test]
fn a_wide_network_names_no_special_address() {
    let wide = words(&["0.0.0.0/0:any", "[::/0]:any"]);
    assert!(connect_to(&wide, WEB, 1, &[]).is_allowed());

    for address in [
        INSIDE,
        "127.0.0.1",
        "fd00::1",
        "::ffff:10.1.2.3",
        "255.255.255.255",
    ] {
        assert!(
            !connect_to(&wide, address, 1, &[]).is_allowed(),
            "{address}"
        );
    }

    // All of link-local does not name the metadata service in it.
    let local = words(&["169.254.0.0/16:80"]);
    assert!(connect_to(&local, "169.254.1.1", 80, &[]).is_allowed());
    assert!(!connect_to(&local, "169.254.169.254", 80, &[]).is_allowed());
    assert!(connect_to(&words(&["169.254.169.254:80"]), "169.254.169.254", 80, &[]).is_allowed());
}

#[test]
fn an_embedded_address_must_be_named_as_well() {
    let outer = words(&["[64:ff9b::/96]:443"]);
    assert!(
        connect_to(&outer, "64:ff9b::cb00:7107", 443, &[]).is_allowed(),
        "203.0.113.7 inside"
    );

    let denied = connect_to(&outer, "64:ff9b::a01:203", 443, &[]);
    assert_eq!(denied.reason, Reason::SpecialAddress { range: "NAT64" });
    assert!(
        denied
            .advice()
            .unwrap()
            .contains("[\"64:ff9b::a01:203\", \"10.1.2.3\"]")
    );

    let both = policy("[[allow]]\naddresses = [\"64:ff9b::/96\", \"10.0.0.0/8\"]\nports = [443]");
    assert!(connect_to(&both, "64:ff9b::a01:203", 443, &[]).is_allowed());
}

#[test]
fn a_connection_needs_a_name_that_was_resolved() {
    let policy = words(&["a.example:443"]);
    assert_eq!(
        pass(&connect_to(&policy, WEB, 443, &["a.example"])),
        Some(Handling::InspectFirstBytes)
    );

    assert_eq!(
        connect_to(&policy, WEB, 443, &[]).reason,
        Reason::NotResolved
    );

    assert_eq!(
        connect_to(&policy, WEB, 443, &["b.example"]).reason,
        Reason::NotResolved
    );

    let port = connect_to(&policy, WEB, 8443, &["a.example"]);
    assert_eq!(
        port.reason,
        Reason::PortNotAllowed {
            rule: "allow-1".parse().unwrap()
        }
    );

    assert!(
        port.advice()
            .unwrap()
            .starts_with("--allow a.example:8443, or in a policy file")
    );
}

#[test]
fn a_rule_with_only_addresses_forwards_any_protocol() {
    let policy = words(&["10.1.0.0/16:5432"]);
    assert_eq!(
        pass(&connect_to(&policy, INSIDE, 5432, &[])),
        Some(Handling::Forward)
    );
    assert!(!connect_to(&policy, INSIDE, 5433, &[]).is_allowed());
    assert!(!connect_to(&policy, "10.2.0.0", 5432, &[]).is_allowed());
}

#[test]
fn the_tls_server_name_must_be_allowed_at_this_address() {
    let policy = words(&["a.example", "b.example"]);
    assert_eq!(
        pass(&tls(&policy, &["a.example"], Some("a.example"))),
        Some(Handling::Forward)
    );

    assert_eq!(
        tls(&policy, &["a.example"], None).reason,
        Reason::NoServerName
    );

    // The name is allowed, but was resolved to another address.
    let other = tls(&policy, &["a.example"], Some("b.example"));
    assert_eq!(
        other.reason,
        Reason::OtherServerName {
            name: name("b.example")
        }
    );

    // Two names of one address: either is allowed, by its own rule.
    let both = tls(&policy, &["a.example", "b.example"], Some("b.example"));
    assert_eq!(both.rule.unwrap().as_ref(), "allow-2");
    let name = name("a.example");
    let hidden = ClientProtocol::Tls {
        server_name: Some(&name),
        encrypted: true,
    };

    assert_eq!(
        say(&policy, &["a.example"], hidden).reason,
        Reason::EncryptedServerName
    );
}

#[test]
fn other_protocols_need_raw() {
    let (checked, raw) = (
        words(&["a.example"]),
        policy("[[allow]]\nhost = \"a.example\"\nraw = true"),
    );

    for protocol in [ClientProtocol::Other, ClientProtocol::Silent] {
        let denied = say(&checked, &["a.example"], protocol);
        assert_eq!(denied.reason, Reason::NotTlsNorHttp);
        assert!(denied.advice().unwrap().contains("raw = true"));
        assert_eq!(
            pass(&say(&raw, &["a.example"], protocol)),
            Some(Handling::Forward)
        );
    }

    assert!(
        !say(&raw, &[], ClientProtocol::Other).is_allowed(),
        "the name is still checked by DNS"
    );

    assert_eq!(
        pass(&say(&checked, &["a.example"], ClientProtocol::Http)),
        Some(Handling::InspectRequests)
    );
}

#[test]
fn the_internet_is_every_public_host_and_no_special_address() {
    let internet = words(&["internet"]);
    let look_up = |text| {
        let name = name(text);
        decide(&internet, &PolicyQuery::Lookup { name: &name })
    };
    assert!(look_up("a.example").is_allowed() && look_up("printer").is_allowed());

    // Any public address, with or without a name, on any port.
    for (address, port) in [(WEB, 1), (WEB, 443), ("2606:4700::1111", 65535)] {
        for names in [&[] as &[&str], &["a.example"]] {
            let connection = connect_to(&internet, address, port, names);
            assert_eq!(pass(&connection), Some(Handling::Forward), "{address}");
        }
    }

    // No special address, however it is reached.
    let special = "10.1.2.3 127.0.0.1 169.254.169.254 192.168.1.1 224.0.0.1 ::1 fd00::1 fe80::1 \
                   ::ffff:10.0.0.1 64:ff9b::a00:1 2002:a01:203::1";
    for special in special.split_ascii_whitespace() {
        for names in [&[] as &[&str], &["a.example"]] {
            let denied = connect_to(&internet, special, 80, names);
            assert!(
                matches!(denied.reason, Reason::SpecialAddress { .. }),
                "{denied:?}"
            );
        }

        let (name, address) = (name("a.example"), ip(special));
        let name = &name;
        assert!(!decide(&internet, &PolicyQuery::Resolved { name, address }).is_allowed());
    }

    // Nothing but TCP, and with ports only these.
    let address = ip(WEB);
    assert!(!decide(&internet, &PolicyQuery::Datagram { address, port: 443 }).is_allowed());
    let tls = words(&["internet:443"]);
    assert!(connect_to(&tls, WEB, 443, &[]).is_allowed());
    let other = connect_to(&tls, WEB, 80, &["a.example"]);
    assert!(matches!(other.reason, Reason::PortNotAllowed { .. }));
}

#[test]
fn the_internet_with_a_secret_terminates_tls_to_its_hosts_only() {
    let policy =
        policy("[[allow]]\ninternet = true\n[[secret]]\nname = \"T\"\nhost = \"a.example\"");
    let (own, other) = (["a.example"], ["b.example"]);
    assert_eq!(
        pass(&connect_to(&policy, WEB, 443, &own)),
        Some(Handling::InspectFirstBytes)
    );
    assert_eq!(
        pass(&connect_to(&policy, WEB, 443, &other)),
        Some(Handling::Forward)
    );

    let both = ["a.example", "b.example"];
    let handling = |server| pass(&tls(&policy, &both, server));
    assert_eq!(handling(Some("a.example")), Some(Handling::TerminateTls));
    for unread in [Some("b.example"), Some("c.example"), None] {
        assert_eq!(handling(unread), Some(Handling::Forward), "{unread:?}");
    }
    for protocol in [ClientProtocol::Other, ClientProtocol::Silent] {
        assert_eq!(pass(&say(&policy, &own, protocol)), Some(Handling::Forward));
    }
}

#[test]
fn a_secret_or_the_rule_terminates_tls() {
    let terminate = policy("[[allow]]\nhost = \"a.example\"\nterminate = true");
    let secret =
        policy("[[allow]]\nhost = \"*.example\"\n[[secret]]\nname = \"T\"\nhost = \"a.example\"");
    assert_eq!(
        pass(&tls(&terminate, &["a.example"], Some("a.example"))),
        Some(Handling::TerminateTls)
    );

    assert_eq!(
        pass(&tls(&secret, &["a.example"], Some("a.example"))),
        Some(Handling::TerminateTls)
    );

    assert_eq!(
        pass(&tls(&secret, &["b.example"], Some("b.example"))),
        Some(Handling::Forward)
    );
}

#[test]
fn methods_apply_where_requests_are_read_and_nothing_else_passes() {
    let policy = policy("[[allow]]\nid = \"get\"\nhost = \"a.example\"\nmethods = \"get\"");
    let get: Method = "GET".parse().unwrap();
    assert!(ask(&policy, None, "a.example", None, get.as_ref()).is_allowed());
    assert!(
        !ask(&policy, None, "a.example", None, "get").is_allowed(),
        "methods are case-sensitive"
    );

    let rule = "get".parse::<RuleId>().unwrap();
    let post = ask(&policy, None, "a.example", None, "POST");
    assert_eq!(
        post.reason,
        Reason::MethodNotAllowed {
            method: "POST".into(),
            rule: rule.clone()
        }
    );

    let hidden = tls(&policy, &["a.example"], Some("a.example"));
    assert_eq!(hidden.reason, Reason::MethodHidden { rule });
    let long = ask(&policy, None, "a.example", None, &"X".repeat(1000));
    assert!(long.sentence().len() < 200);
}

#[test]
fn methods_of_addresses_alone_are_for_plain_http() {
    let policy =
        policy("[[allow]]\naddresses = \"203.0.113.0/24\"\nports = [443, 80]\nmethods = [\"GET\"]");
    assert_eq!(
        pass(&say(&policy, &[], ClientProtocol::Http)),
        Some(Handling::InspectRequests)
    );
    assert!(ask(&policy, None, WEB, None, "GET").is_allowed());
    assert!(!ask(&policy, None, WEB, None, "PUT").is_allowed());
    assert_eq!(
        tls(&policy, &["a.example"], Some("a.example"))
            .reason
            .code(),
        "method_hidden"
    );

    assert_eq!(
        say(&policy, &[], ClientProtocol::Other).reason,
        Reason::NotTlsNorHttp
    );
}

#[test]
fn each_request_is_for_this_host() {
    let policy = words(&["*.example:80"]);
    assert!(ask(&policy, None, "a.example", Some(80), "GET").is_allowed());

    for (tls, host, port) in [
        (None, "b.example", None),
        (None, "a.example", Some(81)),
        (None, WEB, None),
        (Some("a.example"), "b.example", None),
        (Some("b.example"), "a.example", None),
        (Some("a.example"), WEB, None),
    ] {
        let decision = ask(&policy, tls, host, port, "GET");
        assert_eq!(
            decision.reason.code(),
            "other_host",
            "{tls:?} {host} {port:?}"
        );
    }
}

#[test]
fn a_rule_for_addresses_does_not_allow_more_requests_with_a_secret() {
    let rules = "[[allow]]\nhost = \"a.example\"\nmethods = \"GET\"\n\
        [[allow]]\naddresses = \"203.0.113.0/24\"\nports = \"any\"\n\
        [[allow]]\nhost = \"b.example\"\nports = \"any\"\nraw = true\n";

    let secret = "[[secret]]\nname = \"T\"\nhost = \"a.example\"";
    let post = |text: &str| ask(&policy(text), Some("a.example"), "a.example", None, "POST");
    assert!(post(rules).is_allowed());
    assert_eq!(
        post(&format!("{rules}{secret}")).reason.code(),
        "method_not_allowed"
    );
}

#[test]
fn nothing_but_tcp_is_ever_allowed() {
    let policy = words(&["0.0.0.0/0:any", "10.0.0.0/8:any", "a.example:any"]);
    let address = ip(WEB);
    let udp = decide(&policy, &PolicyQuery::Datagram { address, port: 443 });
    assert_eq!((udp.reason, udp.verdict), (Reason::Datagram, Verdict::Deny));
    let protocol = 1;
    let ping = decide(&policy, &PolicyQuery::OtherProtocol { protocol, address });
    assert_eq!(ping.reason, Reason::Protocol { protocol: 1 });
}

#[test]
fn a_refusal_names_policy_subject_reason_and_advice() {
    let policy = Policy {
        limits: NetworkLimits::default(),
        ..words(&["a.example"])
    };
    let text = connect_to(&policy, WEB, 8443, &["a.example"]).refusal(&policy.name);
    let expected = "\
The policy `test` denies a.example:8443: rule `allow-1` allows this host, but not this port.
To allow it: --allow a.example:8443, or in a policy file `[[allow]]` with `host = \"a.example\"`, \
`ports = [8443]`; or add the port to rule `allow-1`.
";
    assert_eq!(text, expected);
}

#[test]
fn codes_in_events_are_those_of_the_reasons() {
    let rule: RuleId = "r".parse().unwrap();
    let all = [
        Reason::Rule,
        Reason::NoRule,
        Reason::PortNotAllowed { rule: rule.clone() },
        Reason::SpecialAddress { range: "private" },
        Reason::NotResolved,
        Reason::NoServerName,
        Reason::EncryptedServerName,
        Reason::OtherServerName {
            name: name("a.example"),
        },
        Reason::OtherHost {
            host: Host::Address(ip(WEB)),
            port: Some(1),
        },
        Reason::NotTlsNorHttp,
        Reason::MethodHidden { rule: rule.clone() },
        Reason::MethodNotAllowed {
            method: "GET".into(),
            rule: rule.clone(),
        },
        Reason::UpgradeHidesMethods { rule },
        Reason::Datagram,
        Reason::Protocol { protocol: 1 },
    ];

    for reason in all {
        let value = serde_json::to_value(&reason).unwrap();
        assert_eq!(value["code"], reason.code());
    }
}
