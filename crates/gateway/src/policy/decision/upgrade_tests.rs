#![allow(clippy::unwrap_used, reason = "a test that fails may panic")]

use super::{Decision, PolicyQuery, decide};
use crate::policy::Policy;
use crate::value::{Host, HostName};

/// Nothing on an upgraded connection has a method, so a rule with methods allows no upgrade; another rule may.
#[test]
fn methods_do_not_allow_an_upgrade() {
    let with_methods = "[[allow]]\nid = \"get\"\nhost = \"a.example\"\nmethods = [\"GET\"]\n";
    let without = "[[allow]]\nhost = \"*.example\"\n";
    let name: HostName = "a.example".parse().unwrap();
    let upgrade = |text: &str, method| -> Decision {
        let host = Host::Name(name.clone());
        decide(
            &Policy::parse_toml(text, "test").unwrap(),
            &PolicyQuery::Request {
                address: "203.0.113.7".parse().unwrap(),
                port: 80,
                names: std::slice::from_ref(&name),
                tls: None,
                host: &host,
                host_port: None,
                method,
                upgrades: true,
            },
        )
    };

    let denied = upgrade(with_methods, "GET");
    assert_eq!(denied.reason.code(), "upgrade_hides_methods");
    assert!(
        denied
            .refusal("p")
            .contains("remove `methods` from rule `get`")
    );
    assert!(upgrade(without, "GET").is_allowed());
    assert!(upgrade(&format!("{with_methods}{without}"), "GET").is_allowed());
}
