//! Parses policy documents and decides by them.

use std::net::IpAddr;

use crate::policy::{Document, Host, HostName, Index, PolicyQuery, decide};

const ADDRESS: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(203, 0, 113, 7));

pub(super) fn read(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };

    let read = [Document::parse_toml(text), Document::parse_json(text)];
    for document in read.into_iter().flatten() {
        assert_round_trip(&document);
        assert_decisions(document);
    }
}

fn assert_round_trip(document: &Document) {
    let text = serde_json::to_string(document).expect("a document serializes");
    match Document::parse_json(&text) {
        Ok(again) => assert_eq!(&again, document),
        // As JSON it may be longer than the maximum.
        Err(error) => assert!(
            text.len() > crate::policy::MAX_DOCUMENT_BYTES,
            "{error}: {text}"
        ),
    }
}

fn assert_decisions(document: Document) {
    let index = Index {
        urls: Vec::new(),
        hosts: Vec::new(),
        credentials: Vec::new(),
    };

    // Indexes are empty, so that nothing is read from this host.
    let Ok(policy) = document.policy_with("fuzz", |_| Ok(index.clone())) else {
        return;
    };

    // Decisions must not panic, and an empty policy must allow nothing.
    let name: HostName = "allowed.test".parse().expect("a name");
    let host = Host::Name(name.clone());
    let names = [name.clone()];
    let queries = [
        PolicyQuery::Lookup { name: &name },
        PolicyQuery::Resolved {
            name: &name,
            address: ADDRESS,
        },
        PolicyQuery::Connect {
            address: ADDRESS,
            port: 443,
            names: &names,
        },
        PolicyQuery::Request {
            address: ADDRESS,
            port: 443,
            names: &names,
            tls: Some(&name),
            host: &host,
            host_port: None,
            method: "GET",
            upgrades: false,
        },
    ];

    for query in &queries {
        let decision = decide(&policy, query);
        assert!(!decision.is_allowed() || !policy.rules.is_empty());
        assert!(!decision.refusal(&policy.name).is_empty());
    }
}
