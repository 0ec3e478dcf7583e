//! Programs of a guest, and its root, try by every means to get one byte to a destination that the policy denies.
//! Nothing arrives, and each attempt is reported. Packets that no program of a guest can send are in the gateway's tests.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use fumehood_end_to_end::engine;
use fumehood_end_to_end::guest::{NetworkEvents, network, python, python_as_root};
use fumehood_end_to_end::netns::in_private_netns;
use fumehood_end_to_end::servers::{
    Canaries, CertificateAuthority, DnsAnswer, NameServer, OTHER, WEB4, WEB6, WebServer, at,
};
use fumehood_engine::NetworkEvent;
use hickory_proto::rr::RecordType;

const RULES: &str = r#"
[[allow]]
id = "web"
host = ["web.test", "second.test", "turning.test"]

[[allow]]
id = "seen"
host = "seen.test"
terminate = true

[limits]
lookups_per_s = 1000
connections_per_s = 1000
"#;

/// What programs do, as anybody.
const ANYBODY: &str = include_str!("network_escape/anybody.py");

/// What else root can do.
const ROOT: &str = include_str!("network_escape/root.py");

/// The event that explains an attempt: code, address and port.
type Explained<'a> = (&'a str, Option<&'a str>, Option<u16>);

const BY_ANYBODY: &[Explained<'_>] = &[
    // Addresses, of both families, and what stands for them.
    ("not_resolved", Some("198.51.100.7"), Some(22)),
    ("not_resolved", Some("198.51.100.7"), Some(80)),
    ("not_resolved", Some("198.51.100.7"), Some(443)),
    ("not_resolved", Some("198.51.100.7"), Some(65_000)),
    ("not_resolved", Some("2001:db8:bad::7"), Some(443)),
    ("special_address", Some("10.66.0.1"), Some(80)),
    ("special_address", Some("169.254.169.254"), Some(80)),
    ("special_address", Some("100.100.100.200"), Some(80)),
    ("special_address", Some("192.88.99.1"), Some(80)),
    ("special_address", Some("fd00:ec2::254"), Some(80)),
    ("special_address", Some("fec0::1"), Some(80)),
    ("special_address", Some("64:ff9b::c633:6407"), Some(80)),
    ("special_address", Some("2002:c633:6407::1"), Some(80)),
    // By way of IPv6's name for an address of IPv4, by TCP's fast open, and with urgent data.
    ("not_resolved", Some("198.51.100.7"), Some(9)),
    ("not_resolved", Some("198.51.100.8"), Some(80)),
    ("not_resolved", Some("198.51.100.8"), Some(8080)),
    // The gateway itself, behind which this host's own services might be.
    ("special_address", Some("198.18.0.1"), Some(22)),
    ("special_address", Some("198.18.0.1"), Some(80)),
    ("special_address", Some("198.18.0.1"), Some(3128)),
    ("special_address", Some("fd66:756d:6568::1"), Some(22)),
    // Other ports of allowed hosts.
    ("port_not_allowed", Some(WEB4), Some(22)),
    ("port_not_allowed", Some(WEB4), Some(3128)),
    // UDP, also to allowed hosts, and to other name servers.
    ("datagram", Some("198.51.100.7"), Some(443)),
    ("datagram", Some("198.51.100.7"), Some(53)),
    ("datagram", Some("2001:db8:bad::7"), Some(53)),
    ("datagram", Some(WEB4), Some(443)),
    ("datagram", Some(WEB6), Some(443)),
    ("datagram", Some("198.18.0.1"), Some(4433)),
    ("datagram", Some("255.255.255.255"), Some(9)),
    ("datagram", Some("224.0.0.251"), Some(5353)),
    // Questions that are none.
    ("malformed_question", None, None),
    ("no_host_name", None, None),
    // DNS by TCP and by TLS to others.
    ("not_resolved", Some("198.51.100.7"), Some(53)),
    ("not_resolved", Some("198.51.100.7"), Some(853)),
    // Names in the first bytes, and names that do not match the address.
    ("special_address", Some("10.66.0.1"), None),
    ("special_address", Some("127.0.0.1"), None),
    ("special_address", Some("198.18.0.1"), None),
    ("special_address", Some("169.254.169.254"), None),
    ("special_address", Some("::1"), None),
    ("special_address", Some("::ffff:10.66.0.1"), None),
    ("other_server_name", Some(OTHER), Some(443)),
    ("other_host", Some(OTHER), Some(80)),
    // Requests of one host in a connection to another.
    ("other_server_name", Some(WEB4), Some(443)),
    ("no_server_name", Some(WEB4), Some(443)),
    ("other_host", Some(WEB4), Some(80)),
    ("other_host", Some(WEB4), Some(443)),
    ("host_changed", Some(WEB4), Some(80)),
    ("host_changed", Some(WEB4), Some(443)),
    ("host_disagrees", Some(WEB4), Some(80)),
    ("host_count", Some(WEB4), Some(443)),
    ("host_invalid", Some(WEB4), Some(443)),
    ("target_invalid", Some(WEB4), Some(443)),
    ("connect_method", Some(WEB4), Some(80)),
    ("connect_method", Some(WEB4), Some(443)),
    ("malformed_request", Some(WEB4), Some(80)),
    ("malformed_request", Some(WEB4), Some(443)),
    ("not_tls_nor_http", Some(WEB4), Some(80)),
    ("not_tls_nor_http", Some(WEB4), Some(443)),
];

const BY_ROOT: &[Explained<'_>] = &[
    ("protocol", Some("198.51.100.7"), None),
    ("protocol", Some("2001:db8:bad::7"), None),
    ("protocol", Some(WEB4), None),
    ("protocol", Some(WEB6), None),
    ("fragment", Some("198.51.100.7"), None),
    ("fragment", Some("2001:db8:bad::7"), None),
    ("fragment", Some(WEB4), None),
    ("source_address", Some("203.0.113.200"), None),
    ("source_address", Some("198.18.0.1"), None),
    ("datagram", Some("198.51.100.8"), Some(53)),
    ("not_resolved", Some("198.51.100.8"), Some(443)),
    ("not_resolved", Some("198.51.100.8"), Some(22)),
    ("malformed", None, None),
];

/// Protocols that root sends packets of, by IPv4 or IPv6.
const PROTOCOLS: [u8; 15] = [0, 1, 2, 4, 41, 43, 47, 50, 51, 58, 60, 89, 132, 136, 255];

async fn names() -> NameServer {
    let one = |address: &str| DnsAnswer::Addresses(vec![address.parse().unwrap()], 0);
    let (v4, v6) = (RecordType::A, RecordType::AAAA);
    let mut names = NameServer::serve()
        .await
        .know("web.test", &format!("{WEB4} {WEB6}"))
        .know("seen.test", WEB4)
        .know("second.test", OTHER);

    // For anybody, and for root; each of whose connections asks for both families.
    for _ in 0..2 {
        for address in [
            WEB4,
            "10.66.0.1",
            "127.0.0.1",
            "198.18.0.1",
            "169.254.169.254",
        ] {
            names = names.say("turning.test", v4, one(address));
        }

        for _ in 0..3 {
            names = names.say("turning.test", v6, one("::1"));
            names = names.say("turning.test", v6, one("::ffff:10.66.0.1"));
        }
    }

    names
}

async fn web(authority: &CertificateAuthority) -> WebServer {
    let web = WebServer::default();
    let acceptor = authority.acceptor(&["web.test", "seen.test", "second.test"]);

    for address in [WEB4, WEB6, OTHER] {
        web.serve(at(address, 80)).await;
        web.serve_tls(at(address, 443), acceptor.clone()).await;
    }

    web
}

#[test]
fn nothing_escapes_the_policy() {
    in_private_netns("nothing_escapes_the_policy", || async {
        let authority = CertificateAuthority::trusted();
        let (names, web) = (names().await, web(&authority).await);
        let canaries = Canaries::listen().await;
        let sandbox = engine().sandbox().network(network(RULES)).allow_root();
        let sandbox = sandbox.await.unwrap();
        let events = NetworkEvents::of(&sandbox);

        let by_anybody = python(&sandbox, ANYBODY).await;
        assert_all_ended(&by_anybody);
        assert_all_explained(&events, BY_ANYBODY).await;
        events.clear();
        let by_root = python_as_root(&sandbox, &format!("{ANYBODY}\n{ROOT}")).await;
        assert_all_ended(&by_root);
        assert_all_explained(&events, BY_ANYBODY).await;
        assert_all_explained(&events, BY_ROOT).await;

        for number in PROTOCOLS {
            let word = format!("protocol {number} ");
            let what =
                |event: &NetworkEvent| event.code == "protocol" && event.message.contains(&word);
            events.find(&word, what).await;
        }

        canaries.assert_untouched();
        canaries.assert_awake().await;
        let known = ["web.test", "seen.test", "second.test", "turning.test"];
        let queries = names.queries();
        assert!(
            queries.iter().all(|name| known.contains(&name.as_str())),
            "{queries:?}"
        );
        assert_no_request_was_smuggled(&web);
        let summary = sandbox.network().unwrap().summary;
        assert_eq!(summary.missed_events, 0);
        assert!(!summary.denials.is_empty());
    });
}

/// Checks that no attempt hung, and that none got through.
fn assert_all_ended(text: &str) {
    let lines: Vec<_> = text.lines().collect();
    assert!(
        lines.len() > 60 && lines.last() == Some(&"all tried"),
        "{text}"
    );

    for line in lines {
        // A request is answered by a page, not only by the end of its connection.
        let is_request = line.starts_with("plain ") || line.starts_with("sealed ");
        assert!(!is_request || !line.ends_with(": []"), "{line}\n{text}");

        // A program that connected its socket gets the refusal at once.
        let is_refused = line.ends_with(": EHOSTUNREACH") || line.ends_with(": EACCES");
        assert!(is_refused || !line.starts_with("udp "), "{line}\n{text}");
        assert!(
            !line.ends_with(" late") && !line.contains("GOT"),
            "{line}\n{text}"
        );
    }
}

async fn assert_all_explained(events: &NetworkEvents, attempts: &[Explained<'_>]) {
    for &(code, address, port) in attempts {
        let to = address.map(|address| address.parse().unwrap());
        let fits = |event: &NetworkEvent| {
            (to.is_none() || event.address == to) && (port.is_none() || event.port == port)
        };

        let what = format!("{code} of {address:?} {port:?}");
        events
            .find(&what, |event| {
                !event.allowed && event.code == code && fits(event)
            })
            .await;
    }
}

/// Checks that servers received only requests that the policy allows, for their own host.
fn assert_no_request_was_smuggled(web: &WebServer) {
    let seen = web.seen();
    assert!(seen.len() > 4, "{seen:?}");

    for head in seen {
        let hosts: Vec<_> = head
            .lines()
            .filter_map(|line| line.strip_prefix("host: "))
            .collect();

        let is_known = |host: &&str| ["web.test", "seen.test", "turning.test"].contains(host);
        assert!(hosts.len() == 1 && is_known(&hosts[0]), "{head}");
        assert!(
            !head.contains("smuggled") && !head.contains("evil"),
            "{head}"
        );
    }
}
