//! The decision function.

use std::net::IpAddr;

use super::outcome::{Decision, Handling, Reason, Subject, Verdict};
use super::query::{ClientProtocol, PolicyQuery};
use crate::policy::rule::{Policy, Rule, special};
use crate::value::{Host, HostName, RuleId};

/// Maximum number of characters of a method that a decision repeats. A guest can send long ones.
const MAX_METHOD_CHARS: usize = 32;

/// The destination of a connection, with the names of its address.
#[derive(Clone, Copy)]
struct Destination<'a> {
    address: IpAddr,
    port: u16,
    names: &'a [HostName],
}

/// The part of a query that is about one HTTP request.
#[derive(Clone, Copy)]
struct Request<'a> {
    tls: Option<&'a HostName>,
    host: &'a Host,
    host_port: Option<u16>,
    method: &'a str,
    upgrades: bool,
}

/// A rule's answer: how it allows, or why it does not.
type Answer = Result<Handling, Reason>;

/// Decides on a query.
///
/// This is the only place where anything is allowed. The gateway asks it at run time, and
/// [`explain`](super::explain) asks it for people.
#[must_use]
pub fn decide(policy: &Policy, query: &PolicyQuery<'_>) -> Decision {
    let answer = answer(policy, query);
    let subject = subject(policy, query);
    match answer {
        Ok((rule, handling)) => Decision {
            verdict: Verdict::Allow(handling),
            rule: Some(rule),
            reason: Reason::Rule,
            subject,
        },
        Err(reason) => Decision {
            verdict: Verdict::Deny,
            rule: None,
            reason: or_special_address(reason, &subject),
            subject,
        },
    }
}

/// Returns the rule that allows the query, and how; or the reason for the denial.
fn answer(policy: &Policy, query: &PolicyQuery<'_>) -> Result<(RuleId, Handling), Reason> {
    match *query {
        // Names are decided without a destination.
        PolicyQuery::Lookup { name } => first_allowing(policy, |rule| lookup(rule, name)),
        PolicyQuery::Resolved { name, address } => {
            first_allowing(policy, |rule| resolved(rule, name, address))
        }

        // Connections, their first bytes and their requests.
        PolicyQuery::Connect {
            address,
            port,
            names,
        } => {
            let destination = Destination {
                address,
                port,
                names,
            };
            first_allowing(policy, |rule| connect(policy, rule, destination))
        }
        PolicyQuery::FirstBytes {
            address,
            port,
            names,
            protocol,
        } => {
            let destination = Destination {
                address,
                port,
                names,
            };
            first_allowing(policy, |rule| {
                first_bytes(policy, rule, destination, protocol)
            })
        }
        PolicyQuery::Request {
            address,
            port,
            names,
            tls,
            host,
            host_port,
            method,
            upgrades,
        } => {
            let destination = Destination {
                address,
                port,
                names,
            };
            let request = Request {
                tls,
                host,
                host_port,
                method,
                upgrades,
            };
            first_allowing(policy, |rule| {
                check_request(policy, rule, destination, request)
            })
        }

        // No rule allows anything but TCP.
        PolicyQuery::Datagram { .. } => Err(Reason::Datagram),
        PolicyQuery::OtherProtocol { protocol, .. } => Err(Reason::Protocol { protocol }),
    }
}

/// Returns the first rule that allows; or the reason of the rule that came closest, the first of equals.
fn first_allowing(
    policy: &Policy,
    ask: impl Fn(&Rule) -> Answer,
) -> Result<(RuleId, Handling), Reason> {
    let mut closest = Reason::NoRule;
    for rule in &policy.rules {
        match ask(rule) {
            Ok(handling) => return Ok((rule.id.clone(), handling)),
            Err(reason) if closeness(&reason) > closeness(&closest) => closest = reason,
            Err(_) => {}
        }
    }
    Err(closest)
}

/// Returns how much of a rule was met before it denied for this reason.
fn closeness(reason: &Reason) -> u8 {
    match reason {
        Reason::NoRule => 0,
        Reason::NotResolved => 1,
        Reason::SpecialAddress { .. } => 2,
        Reason::PortNotAllowed { .. } => 3,
        Reason::NoServerName
        | Reason::EncryptedServerName
        | Reason::OtherServerName { .. }
        | Reason::OtherHost { .. }
        | Reason::NotTlsNorHttp => 4,
        Reason::MethodHidden { .. }
        | Reason::MethodNotAllowed { .. }
        | Reason::UpgradeHidesMethods { .. } => 5,
        Reason::Datagram | Reason::Protocol { .. } | Reason::Rule => 6,
    }
}

/// Replaces the reason for a special address without a name that no rule matches: that it is special explains more.
fn or_special_address(reason: Reason, subject: &Subject) -> Reason {
    match (&reason, subject.address.and_then(special)) {
        (Reason::NoRule | Reason::NotResolved, Some(range)) if subject.name.is_none() => {
            Reason::SpecialAddress { range }
        }
        _ => reason,
    }
}

fn lookup(rule: &Rule, name: &HostName) -> Answer {
    if rule.matches(name) {
        Ok(Handling::Forward)
    } else {
        Err(Reason::NoRule)
    }
}

fn resolved(rule: &Rule, name: &HostName, address: IpAddr) -> Answer {
    lookup(rule, name)?;
    check_special(rule, address)?;
    Ok(Handling::Forward)
}

/// Checks that the rule names the address if it is special.
fn check_special(rule: &Rule, address: IpAddr) -> Result<(), Reason> {
    match special(address) {
        Some(range) if !rule.opens(address) => Err(Reason::SpecialAddress { range }),
        _ => Ok(()),
    }
}

fn connect(policy: &Policy, rule: &Rule, destination: Destination<'_>) -> Answer {
    // A rule without hosts matches addresses; one with hosts matches names that were resolved to the address.
    if rule.hosts.is_empty() {
        if !rule.has_address(destination.address) {
            return Err(Reason::NoRule);
        }
    } else if !destination.names.iter().any(|name| rule.matches(name)) {
        return Err(Reason::NotResolved);
    }

    check_special(rule, destination.address)?;
    if !rule.ports.contains(destination.port) {
        return Err(Reason::PortNotAllowed {
            rule: rule.id.clone(),
        });
    }

    // A rule for the whole internet reads only the connections that may carry a secret.
    let may_carry_secret =
        rule.internet && (destination.names.iter()).any(|name| policy.has_secret_for(name));

    Ok(if rule.is_opaque() && !may_carry_secret {
        Handling::Forward
    } else {
        Handling::InspectFirstBytes
    })
}

fn first_bytes(
    policy: &Policy,
    rule: &Rule,
    destination: Destination<'_>,
    protocol: ClientProtocol<'_>,
) -> Answer {
    if connect(policy, rule, destination)? == Handling::Forward {
        return Ok(Handling::Forward);
    }
    match protocol {
        ClientProtocol::Tls {
            server_name: Some(name),
            encrypted: false,
        } if rule.internet && is_allowed_name(rule, destination, name) => {
            check_tls(policy, rule, destination, name)
        }
        // No name is denied, so that none needs to be read.
        ClientProtocol::Tls { .. } | ClientProtocol::Other | ClientProtocol::Silent
            if rule.internet =>
        {
            Ok(Handling::Forward)
        }
        ClientProtocol::Http => Ok(Handling::InspectRequests),
        ClientProtocol::Other | ClientProtocol::Silent => Err(Reason::NotTlsNorHttp),
        ClientProtocol::Tls {
            encrypted: true, ..
        } => Err(Reason::EncryptedServerName),
        ClientProtocol::Tls {
            server_name: None, ..
        } => Err(Reason::NoServerName),
        ClientProtocol::Tls {
            server_name: Some(name),
            ..
        } => check_tls(policy, rule, destination, name),
    }
}

fn check_tls(
    policy: &Policy,
    rule: &Rule,
    destination: Destination<'_>,
    name: &HostName,
) -> Answer {
    // A rule without hosts is asked here only because of its methods, and has no name to compare with TLS.
    let has_hosts = rule.internet || !rule.hosts.is_empty();
    if has_hosts && !is_allowed_name(rule, destination, name) {
        return Err(Reason::OtherServerName { name: name.clone() });
    }
    if has_hosts && (rule.terminate || policy.has_secret_for(name)) {
        return Ok(Handling::TerminateTls);
    }
    if !rule.methods.is_empty() {
        return Err(Reason::MethodHidden {
            rule: rule.id.clone(),
        });
    }
    Ok(Handling::Forward)
}

/// Returns whether the rule matches the name, and the name belongs to this very address.
fn is_allowed_name(rule: &Rule, destination: Destination<'_>, name: &HostName) -> bool {
    rule.matches(name) && destination.names.contains(name)
}

fn check_request(
    policy: &Policy,
    rule: &Rule,
    destination: Destination<'_>,
    request: Request<'_>,
) -> Answer {
    connect(policy, rule, destination)?;
    if !is_for_destination(policy, rule, destination, request) {
        return Err(Reason::OtherHost {
            host: request.host.clone(),
            port: request.host_port,
        });
    }
    if !rule.allows_method(request.method) {
        let method = request.method.chars().take(MAX_METHOD_CHARS).collect();
        return Err(Reason::MethodNotAllowed {
            method,
            rule: rule.id.clone(),
        });
    }
    if request.upgrades && !rule.methods.is_empty() {
        return Err(Reason::UpgradeHidesMethods {
            rule: rule.id.clone(),
        });
    }
    Ok(Handling::Forward)
}

/// Returns whether the host that a request names is the destination, as far as the rule requires it.
fn is_for_destination(
    policy: &Policy,
    rule: &Rule,
    destination: Destination<'_>,
    request: Request<'_>,
) -> bool {
    // A request that carries a secret needs a rule for its host: a rule that allows everything at an address, which the
    // host may share with others, is not enough.
    let has_secret = request.tls.is_some_and(|name| policy.has_secret_for(name));
    let is_port = request
        .host_port
        .is_none_or(|port| port == destination.port);
    match (request.host, request.tls) {
        // Terminated TLS is certified for one name, and requests in it must name the same host.
        (Host::Name(name), Some(certified)) if name != certified => false,
        (Host::Address(_), Some(_)) => false,
        _ if !has_secret && (rule.is_opaque() || rule.hosts.is_empty()) => true,
        (Host::Name(name), _) => is_port && is_allowed_name(rule, destination, name),
        (Host::Address(_), None) => false,
    }
}

/// Returns the host that a query is about.
fn subject(policy: &Policy, query: &PolicyQuery<'_>) -> Subject {
    let at = |address, port, names: &[HostName]| Subject {
        name: best_name(policy, names),
        address: Some(address),
        port,
    };
    match *query {
        PolicyQuery::Lookup { name } => Subject {
            name: Some(name.clone()),
            ..Subject::default()
        },
        PolicyQuery::Resolved { name, address } => Subject {
            name: Some(name.clone()),
            address: Some(address),
            port: None,
        },
        PolicyQuery::Connect {
            address,
            port,
            names,
        } => at(address, Some(port), names),
        PolicyQuery::FirstBytes {
            address,
            port,
            names,
            protocol,
        } => match protocol {
            ClientProtocol::Tls {
                server_name: Some(name),
                ..
            } if names.contains(name) => at(address, Some(port), std::slice::from_ref(name)),
            _ => at(address, Some(port), names),
        },
        PolicyQuery::Request {
            address,
            port,
            names,
            host,
            ..
        } => match host {
            Host::Name(name) if names.contains(name) => {
                at(address, Some(port), std::slice::from_ref(name))
            }
            _ => at(address, Some(port), names),
        },
        PolicyQuery::Datagram { address, port } => at(address, Some(port), &[]),
        PolicyQuery::OtherProtocol { address, .. } => at(address, None, &[]),
    }
}

/// Returns the most telling name of an address: one that a rule matches, or else the first.
fn best_name(policy: &Policy, names: &[HostName]) -> Option<HostName> {
    let is_matched = |name: &&HostName| policy.rules.iter().any(|rule| rule.matches(name));
    names.iter().find(is_matched).or(names.first()).cloned()
}
