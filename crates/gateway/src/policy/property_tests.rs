//! Properties of every policy and every query.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use super::*;

/// Few names, so that rules and queries match often.
fn name() -> impl Strategy<Value = HostName> {
    "([ab]\\.){0,2}(x|notx)\\.test".prop_map(|text| text.parse().unwrap())
}

fn pattern() -> impl Strategy<Value = HostPattern> {
    prop_oneof![
        name().prop_map(HostPattern::Exact),
        name().prop_map(HostPattern::Below)
    ]
}

/// Addresses of every kind, and any at all.
fn address() -> impl Strategy<Value = IpAddr> {
    let known = [
        "203.0.113.7",
        "10.1.2.3",
        "169.254.169.254",
        "127.0.0.1",
        "2001:db8::1",
        "fd00::1",
        "::1",
    ];

    prop_oneof![
        4 => prop::sample::select(known.to_vec()).prop_map(|text| text.parse().unwrap()),
        1 => any::<Ipv4Addr>().prop_map(IpAddr::V4),
        1 => any::<Ipv6Addr>().prop_map(IpAddr::V6),
        1 => any::<Ipv4Addr>().prop_map(|inner| IpAddr::V6(inner.to_ipv6_mapped())),
    ]
}

fn net() -> impl Strategy<Value = Net> {
    (address(), 0..=128u8).prop_map(|(address, bits)| {
        let max_bits = if address.is_ipv4() { 32 } else { 128 };
        Net(IpNet::new(address, bits.min(max_bits)).unwrap().trunc())
    })
}

fn port() -> impl Strategy<Value = u16> {
    prop_oneof![Just(80), Just(443), 1..=u16::MAX]
}

fn ports() -> impl Strategy<Value = Ports> {
    let range = (port(), port()).prop_map(|(a, b)| format!("{}-{}", a.min(b), a.max(b)));
    let one = prop_oneof![
        port().prop_map(|port| port.to_string()),
        range,
        Just("any".to_owned())
    ];

    vec(one, 1..4).prop_map(|words| words.join(",").parse().unwrap())
}

fn method() -> impl Strategy<Value = Method> {
    prop::sample::select(vec!["GET", "POST"]).prop_map(|text| text.parse().unwrap())
}

/// Any valid rule.
fn spec() -> impl Strategy<Value = RuleSpec> {
    let internet = option::of(ports()).prop_map(|ports| RuleSpec {
        internet: true,
        ports,
        ..RuleSpec::default()
    });

    prop_oneof![8 => narrow_spec(), 1 => internet]
}

/// Any valid rule for hosts or addresses.
fn narrow_spec() -> impl Strategy<Value = RuleSpec> {
    let hosts = vec(pattern(), 0..3);
    let parts = (
        hosts,
        vec(net(), 0..3),
        option::of(ports()),
        vec(method(), 0..2),
        any::<bool>(),
        any::<bool>(),
    );

    parts
        .prop_map(
            |(host, addresses, ports, methods, terminate, raw)| RuleSpec {
                host,
                addresses,
                ports,
                methods,
                terminate,
                raw,
                ..RuleSpec::default()
            },
        )
        .prop_filter("makes sense", |spec| spec.check().is_ok())
}

fn document() -> impl Strategy<Value = Document> {
    vec(spec(), 0..4).prop_map(|allow| Document {
        allow,
        ..Document::default()
    })
}

/// A query of any kind, with owned values.
#[derive(Debug, Clone)]
struct AnyQuery {
    kind: u8,
    name: HostName,
    names: Vec<HostName>,
    address: IpAddr,
    port: u16,
    server: Option<HostName>,
    encrypted: bool,
    protocol: u8,
    host: Host,
    host_port: Option<u16>,
    method: String,
}

fn any_query() -> impl Strategy<Value = AnyQuery> {
    let host = prop_oneof![
        name().prop_map(Host::Name),
        address().prop_map(Host::Address)
    ];

    let method = prop_oneof![
        method().prop_map(|method| method.to_string()),
        any::<String>()
    ];

    let to = (name(), vec(name(), 0..3), address(), port());
    let tls = (option::of(name()), any::<bool>(), 0..4u8);

    (0..7u8, to, tls, host, option::of(port()), method).prop_map(
        |(
            kind,
            (name, names, address, port),
            (server, encrypted, protocol),
            host,
            host_port,
            method,
        )| AnyQuery {
            kind,
            name,
            names,
            address,
            port,
            server,
            encrypted,
            protocol,
            host,
            host_port,
            method,
        },
    )
}

impl AnyQuery {
    fn client_protocol(&self) -> ClientProtocol<'_> {
        match self.protocol {
            0 => ClientProtocol::Tls {
                server_name: self.server.as_ref(),
                encrypted: self.encrypted,
            },
            1 => ClientProtocol::Http,
            2 => ClientProtocol::Other,
            _ => ClientProtocol::Silent,
        }
    }

    fn query(&self) -> PolicyQuery<'_> {
        let Self {
            name,
            names,
            address,
            port,
            host,
            host_port,
            method,
            ..
        } = self;

        let (address, port, host_port, tls) = (*address, *port, *host_port, self.server.as_ref());
        match self.kind {
            0 => PolicyQuery::Lookup { name },
            1 => PolicyQuery::Resolved { name, address },
            2 => PolicyQuery::Connect {
                address,
                port,
                names,
            },
            3 => PolicyQuery::FirstBytes {
                address,
                port,
                names,
                protocol: self.client_protocol(),
            },
            4 => PolicyQuery::Request {
                address,
                port,
                names,
                tls,
                host,
                host_port,
                method,
                upgrades: false,
            },
            5 => PolicyQuery::Datagram { address, port },
            _ => PolicyQuery::OtherProtocol {
                protocol: 1,
                address,
            },
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn an_empty_policy_allows_nothing(any_query in any_query()) {
        let decision = decide(&Policy::nothing("test"), &any_query.query());
        prop_assert!(!decision.is_allowed());
        prop_assert!(decision.advice().is_some());
        prop_assert!(!decision.refusal("test").is_empty());
    }

    #[test]
    fn a_special_address_is_allowed_only_where_a_rule_names_it(document in document(), any_query in any_query()) {
        let policy = document.policy("test").unwrap();
        let is_about_address = (1..=4).contains(&any_query.kind);
        if is_about_address && special(any_query.address).is_some() && decide(&policy, &any_query.query()).is_allowed() {
            let mut nets = policy.rules.iter().flat_map(|rule| &rule.addresses);
            // The network that names it holds no address outside its range.
            let range = rule::special_range(any_query.address).unwrap();
            let is_within = |net: &IpNet| [net.network(), net.broadcast()].iter().all(|end| range.contains(end));
            let names = |net: &&IpNet| net.contains(&any_query.address) && is_within(net);
            prop_assert!(nets.any(|net| names(&net)));
        }
    }

    #[test]
    fn an_allowed_answer_names_a_rule_and_a_denial_a_reason(document in document(), any_query in any_query()) {
        let policy = document.policy("test").unwrap();
        let decision = decide(&policy, &any_query.query());
        prop_assert_eq!(decision.is_allowed(), decision.reason == Reason::Rule);
        prop_assert_eq!(decision.is_allowed(), decision.rule.is_some());
        prop_assert_eq!(decision.is_allowed(), decision.advice().is_none());
        prop_assert!(serde_json::to_string(&decision).is_ok());
    }

    #[test]
    fn one_more_rule_never_denies(document in document(), more in spec(), at: prop::sample::Index, any_query in any_query()) {
        let before = decide(&document.clone().policy("test").unwrap(), &any_query.query());
        let mut wider = document;
        let at = at.index(wider.allow.len() + 1);
        wider.allow.insert(at, more);
        let after = decide(&wider.policy("test").unwrap(), &any_query.query());
        prop_assert!(!before.is_allowed() || after.is_allowed(), "{:?}", after);
    }

    #[test]
    fn allowed_first_bytes_and_requests_imply_an_allowed_connection(document in document(), any_query in any_query()) {
        let policy = document.policy("test").unwrap();
        let connect = AnyQuery { kind: 2, ..any_query.clone() };

        for kind in [3, 4] {
            let later = AnyQuery { kind, ..any_query.clone() };
            if decide(&policy, &later.query()).is_allowed() {
                prop_assert!(decide(&policy, &connect.query()).is_allowed());
            }
        }
    }

    #[test]
    fn a_pattern_matches_neither_the_host_nor_a_name_with_the_same_ending(host in name(), label in "[a-z0-9]{1,8}") {
        let below = HostPattern::Below(host.clone());
        prop_assert!(!below.matches(&host));
        let alike: HostName = format!("{label}{host}").parse().unwrap();
        prop_assert!(!below.matches(&alike));
        let under: HostName = format!("{label}.{host}").parse().unwrap();
        prop_assert!(below.matches(&under));
    }

    #[test]
    fn case_and_a_final_dot_do_not_matter(name in name()) {
        let shouted = name.to_string().to_uppercase();
        prop_assert_eq!(&shouted.parse::<HostName>().unwrap(), &name);
        let dotted: HostName = format!("{shouted}.").parse().unwrap();
        prop_assert_eq!(dotted, name);
    }

    #[test]
    fn no_text_makes_a_parser_panic(text: String, json: String) {
        let _ = text.parse::<HostName>();
        let _ = text.parse::<Host>();
        let _ = text.parse::<Target>();
        let _ = RuleSpec::parse_word(&text);
        let _ = Document::parse_toml(&text);
        let _ = Document::parse_json(&json);
    }

    #[test]
    fn a_shown_word_parses_to_the_same_rule(spec in spec()) {
        let is_word = spec.host.len() + spec.addresses.len() + usize::from(spec.internet) == 1
            && spec.methods.is_empty() && !spec.terminate && !spec.raw;
        if is_word {
            let one = Document { allow: vec![spec], ..Document::default() }.policy("test").unwrap();
            let again = RuleSpec::parse_word(&one.rules[0].to_string()).unwrap();
            let again = Document { allow: vec![again], ..Document::default() }.policy("test").unwrap();
            prop_assert_eq!(one, again);
        }
    }

    #[test]
    fn a_serialized_document_parses_to_the_same_document(document in document()) {
        let text = toml::to_string(&document).unwrap();
        prop_assert_eq!(&Document::parse_toml(&text).unwrap(), &document);
        let json = serde_json::to_string(&document).unwrap();
        prop_assert_eq!(&Document::parse_json(&json).unwrap(), &document);
    }
}
