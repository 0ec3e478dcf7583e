use std::net::IpAddr;

use super::outcome::{Decision, Pass, Reason, Subject, Verdict};
use super::query::{Question, Said};
use crate::policy::rule::{Policy, Rule, special};
use crate::value::{Host, HostName, RuleId};

/// Characters of a method that a decision repeats; a guest can send long ones.
const METHOD_CHARS: usize = 32;

/// Where a connection goes, and by which names.
#[derive(Clone, Copy)]
struct Way<'a> {
    address: IpAddr,
    port: u16,
    names: &'a [HostName],
}

/// A rule's answer: how it allows, or how it fails to.
type Answer = Result<Pass, Reason>;

/// What a policy says to a question.
///
/// This is the only place where anything is allowed: the gateway asks it at run time, and
/// [`explain`](super::explain) for a person.
#[must_use]
pub fn decide(policy: &Policy, question: &Question<'_>) -> Decision {
    let found = answer(policy, question);
    let subject = subject(policy, question);
    match found {
        Ok((rule, pass)) => Decision {
            verdict: Verdict::Allow(pass),
            rule: Some(rule),
            reason: Reason::Rule,
            subject,
        },
        Err(reason) => Decision {
            verdict: Verdict::Deny,
            rule: None,
            reason: or_special(reason, &subject),
            subject,
        },
    }
}

/// The rule that allows, and how; or why none does.
fn answer(policy: &Policy, question: &Question<'_>) -> Result<(RuleId, Pass), Reason> {
    match *question {
        Question::Lookup { name } => first(policy, |rule| lookup(rule, name)),
        Question::Resolved { name, address } => first(policy, |rule| resolved(rule, name, address)),
        Question::Connect {
            address,
            port,
            names,
        } => {
            let way = Way {
                address,
                port,
                names,
            };
            first(policy, |rule| connect(rule, way))
        }
        Question::Speak {
            address,
            port,
            names,
            said,
        } => {
            let way = Way {
                address,
                port,
                names,
            };
            first(policy, |rule| speak(policy, rule, way, said))
        }
        Question::Request {
            address,
            port,
            names,
            tls,
            host,
            host_port,
            method,
        } => {
            let way = Way {
                address,
                port,
                names,
            };
            let asked = Asked {
                tls,
                host,
                host_port,
                method,
            };
            first(policy, |rule| request(policy, rule, way, asked))
        }
        Question::Datagram { .. } => Err(Reason::Datagram),
        Question::Other { protocol, .. } => Err(Reason::Protocol { protocol }),
    }
}

/// The first rule that allows; or the reason of the one that came nearest, the first of equals.
fn first(policy: &Policy, ask: impl Fn(&Rule) -> Answer) -> Result<(RuleId, Pass), Reason> {
    let mut nearest = Reason::NoRule;
    for rule in &policy.rules {
        match ask(rule) {
            Ok(pass) => return Ok((rule.id.clone(), pass)),
            Err(reason) if nearness(&reason) > nearness(&nearest) => nearest = reason,
            Err(_) => {}
        }
    }
    Err(nearest)
}

/// How much of a rule was met before this.
fn nearness(reason: &Reason) -> u8 {
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
        Reason::MethodHidden { .. } | Reason::MethodNotAllowed { .. } => 5,
        Reason::Datagram | Reason::Protocol { .. } | Reason::Rule => 6,
    }
}

/// A special address that no rule is about, under no name, is denied for what it is: that tells more.
fn or_special(reason: Reason, subject: &Subject) -> Reason {
    match (&reason, subject.address.and_then(special)) {
        (Reason::NoRule | Reason::NotResolved, Some(range)) if subject.name.is_none() => {
            Reason::SpecialAddress { range }
        }
        _ => reason,
    }
}

fn lookup(rule: &Rule, name: &HostName) -> Answer {
    if rule.matches(name) {
        Ok(Pass::Through)
    } else {
        Err(Reason::NoRule)
    }
}

fn resolved(rule: &Rule, name: &HostName, address: IpAddr) -> Answer {
    lookup(rule, name)?;
    opens(rule, address)?;
    Ok(Pass::Through)
}

fn opens(rule: &Rule, address: IpAddr) -> Result<(), Reason> {
    match special(address) {
        Some(range) if !rule.opens(address) => Err(Reason::SpecialAddress { range }),
        _ => Ok(()),
    }
}

fn connect(rule: &Rule, way: Way<'_>) -> Answer {
    if rule.hosts.is_empty() {
        if !rule.has_address(way.address) {
            return Err(Reason::NoRule);
        }
    } else if !way.names.iter().any(|name| rule.matches(name)) {
        return Err(Reason::NotResolved);
    }
    opens(rule, way.address)?;
    if !rule.ports.contains(way.port) {
        return Err(Reason::PortNotAllowed {
            rule: rule.id.clone(),
        });
    }
    Ok(if rule.is_opaque() {
        Pass::Through
    } else {
        Pass::Listen
    })
}

fn speak(policy: &Policy, rule: &Rule, way: Way<'_>, said: Said<'_>) -> Answer {
    if connect(rule, way)? == Pass::Through {
        return Ok(Pass::Through);
    }
    match said {
        Said::Http => Ok(Pass::Inspect),
        Said::Other | Said::Nothing => Err(Reason::NotTlsNorHttp),
        Said::Tls {
            encrypted: true, ..
        } => Err(Reason::EncryptedServerName),
        Said::Tls {
            server_name: None, ..
        } => Err(Reason::NoServerName),
        Said::Tls {
            server_name: Some(name),
            ..
        } => tls(policy, rule, way, name),
    }
}

fn tls(policy: &Policy, rule: &Rule, way: Way<'_>, name: &HostName) -> Answer {
    // A rule about addresses alone comes here for its methods' sake, and knows no name to hold TLS to.
    if !rule.hosts.is_empty() && !is_allowed_name(rule, way, name) {
        return Err(Reason::OtherServerName { name: name.clone() });
    }
    if !rule.hosts.is_empty() && (rule.terminate || policy.has_secret_for(name)) {
        return Ok(Pass::Terminate);
    }
    if !rule.methods.is_empty() {
        return Err(Reason::MethodHidden {
            rule: rule.id.clone(),
        });
    }
    Ok(Pass::Through)
}

/// The rule is about the name, and the name is one of this very address.
fn is_allowed_name(rule: &Rule, way: Way<'_>, name: &HostName) -> bool {
    rule.matches(name) && way.names.contains(name)
}

/// What a request says of itself.
#[derive(Clone, Copy)]
struct Asked<'a> {
    tls: Option<&'a HostName>,
    host: &'a Host,
    host_port: Option<u16>,
    method: &'a str,
}

fn request(policy: &Policy, rule: &Rule, way: Way<'_>, asked: Asked<'_>) -> Answer {
    connect(rule, way)?;
    if !is_for_here(policy, rule, way, asked) {
        return Err(Reason::OtherHost {
            host: asked.host.clone(),
            port: asked.host_port,
        });
    }
    if !rule.allows_method(asked.method) {
        let method = asked.method.chars().take(METHOD_CHARS).collect();
        return Err(Reason::MethodNotAllowed {
            method,
            rule: rule.id.clone(),
        });
    }
    Ok(Pass::Through)
}

fn is_for_here(policy: &Policy, rule: &Rule, way: Way<'_>, asked: Asked<'_>) -> bool {
    // What carries a secret is allowed by a rule about its host alone, not by one that lets anything through
    // to an address which that host happens to share.
    let is_named = asked.tls.is_some_and(|name| policy.has_secret_for(name));
    let is_port = asked.host_port.is_none_or(|port| port == way.port);
    match (asked.host, asked.tls) {
        // Terminated TLS is certified for one name; a request in it for another one is for nobody.
        (Host::Name(name), Some(certified)) if name != certified => false,
        (Host::Address(_), Some(_)) => false,
        _ if !is_named && (rule.is_opaque() || rule.hosts.is_empty()) => true,
        (Host::Name(name), _) => is_port && is_allowed_name(rule, way, name),
        (Host::Address(_), None) => false,
    }
}

fn subject(policy: &Policy, question: &Question<'_>) -> Subject {
    let of = |address, port, names: &[HostName]| Subject {
        name: best_name(policy, names),
        address: Some(address),
        port,
    };
    match *question {
        Question::Lookup { name } => Subject {
            name: Some(name.clone()),
            ..Subject::default()
        },
        Question::Resolved { name, address } => Subject {
            name: Some(name.clone()),
            address: Some(address),
            port: None,
        },
        Question::Connect {
            address,
            port,
            names,
        } => of(address, Some(port), names),
        Question::Speak {
            address,
            port,
            names,
            said,
        } => match said {
            Said::Tls {
                server_name: Some(name),
                ..
            } if names.contains(name) => of(address, Some(port), std::slice::from_ref(name)),
            _ => of(address, Some(port), names),
        },
        Question::Request {
            address,
            port,
            names,
            host,
            ..
        } => match host {
            Host::Name(name) if names.contains(name) => {
                of(address, Some(port), std::slice::from_ref(name))
            }
            _ => of(address, Some(port), names),
        },
        Question::Datagram { address, port } => of(address, Some(port), &[]),
        Question::Other { address, .. } => of(address, None, &[]),
    }
}

/// An address can have many names; the one that a rule is about tells most.
fn best_name(policy: &Policy, names: &[HostName]) -> Option<HostName> {
    let allowed = |name: &&HostName| policy.rules.iter().any(|rule| rule.matches(name));
    names.iter().find(allowed).or(names.first()).cloned()
}
