//! A decision in words: for refusals that the guest reads, and for who explains a policy.

use std::net::IpAddr;

use super::outcome::{Decision, Reason};
use crate::policy::rule::to_name;
use crate::value::Host;

impl Decision {
    /// Why, as a sentence without its full stop.
    #[must_use]
    pub fn sentence(&self) -> String {
        match &self.reason {
            Reason::Rule => match &self.rule {
                Some(rule) => format!("rule `{rule}` allows it"),
                None => "it is allowed".into(),
            },
            Reason::NoRule => "no rule allows it".into(),
            Reason::PortNotAllowed { rule } => {
                format!("rule `{rule}` allows this host, and not this port")
            }
            Reason::SpecialAddress { range } => {
                format!(
                    "{} is a special address ({range}), and no rule for it names that",
                    self.address()
                )
            }
            Reason::NotResolved => format!(
                "{} is not an address that an allowed name was resolved to, or its time is over",
                self.address()
            ),
            Reason::NoServerName => "the beginning of TLS has no server name (SNI)".into(),
            Reason::EncryptedServerName => {
                "TLS may hide another server name (encrypted client hello)".into()
            }
            Reason::OtherServerName { name } => {
                format!("TLS is for {name}, which is not allowed at this address")
            }
            Reason::OtherHost { host, port } => {
                let port = port.map(|port| format!(":{port}")).unwrap_or_default();
                format!("the request is for {host}{port}, which is not allowed on this connection")
            }
            Reason::NotTlsNorHttp => {
                "what is spoken is neither TLS nor HTTP, so that no name can be checked".into()
            }
            Reason::MethodHidden { rule } => {
                format!("rule `{rule}` allows only some methods, and TLS hides them")
            }
            Reason::MethodNotAllowed { method, rule } => {
                format!(
                    "rule `{rule}` does not allow the method {}",
                    method.escape_default()
                )
            }
            Reason::Datagram => "UDP is never passed on".into(),
            Reason::Protocol { protocol } => {
                format!("packets of protocol {protocol} are never passed on, only TCP is")
            }
        }
    }

    /// What to do so that it is allowed; none for what is, and for what no policy can allow.
    #[must_use]
    pub fn advice(&self) -> Option<String> {
        let host = self.host();
        Some(match &self.reason {
            Reason::Rule => return None,
            Reason::NoRule | Reason::NotResolved => self.allow(&host),
            Reason::PortNotAllowed { rule } => {
                format!("{}; or give rule `{rule}` the port", self.allow(&host))
            }
            Reason::SpecialAddress { .. } => self.open(),
            Reason::NoServerName => format!(
                "use a client that sends the name; or allow anything to be spoken: in the policy file, `raw = true` in the rule for {host}"
            ),
            Reason::EncryptedServerName => {
                "switch encrypted client hello off in the client, or its GREASE".into()
            }
            Reason::OtherServerName { name } => self.allow(name.as_ref()),
            Reason::OtherHost { host, .. } => self.allow(&host.to_string()),
            Reason::NotTlsNorHttp => {
                format!(
                    "in the policy file, `raw = true` in the rule for {host}; the name is then checked by DNS alone"
                )
            }
            Reason::MethodHidden { rule } => {
                format!("in the policy file, `terminate = true` in rule `{rule}`")
            }
            Reason::MethodNotAllowed { method, rule } => {
                format!(
                    "in the policy file, add {:?} to `methods` of rule `{rule}`",
                    method
                )
            }
            Reason::Datagram => "use TCP; HTTP/3 falls back to it by itself".into(),
            Reason::Protocol { .. } => "use TCP".into(),
        })
    }

    /// What a guest reads of a denial: whose policy denied what, why, and how to allow it.
    #[must_use]
    pub fn refusal(&self, policy: &str) -> String {
        let Self { subject, .. } = self;
        let mut text = format!(
            "The policy `{policy}` denies {subject}: {}.\n",
            self.sentence()
        );
        if let Some(advice) = self.advice() {
            text.push_str(&format!("To allow it: {advice}.\n"));
        }
        text
    }

    fn address(&self) -> String {
        self.subject
            .address
            .map_or_else(|| "this".into(), |address| address.to_string())
    }

    /// The host as rules have it.
    fn host(&self) -> String {
        match (&self.subject.name, self.subject.address) {
            (Some(name), _) => name.to_string(),
            (None, Some(address)) => Host::Address(address).to_string(),
            (None, None) => "the host".into(),
        }
    }

    fn allow(&self, host: &str) -> String {
        let (key, value) = match host.parse() {
            Ok(Host::Address(address)) => ("addresses", format!("[\"{address}\"]")),
            _ => ("host", format!("\"{host}\"")),
        };
        let port = self
            .subject
            .port
            .filter(|port| key == "addresses" || ![80, 443].contains(port));
        let word = port.map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
        let ports = port
            .map(|port| format!(", `ports = [{port}]`"))
            .unwrap_or_default();
        format!("--allow {word}, or in a policy file `[[allow]]` with `{key} = {value}`{ports}")
    }

    /// How to name a special address, in a rule of its own where no name is known.
    fn open(&self) -> String {
        let Some(address) = self.subject.address else {
            return self.allow(&self.host());
        };
        let nets: Vec<_> = to_name(address)
            .map(|address: IpAddr| format!("\"{address}\""))
            .collect();
        let nets = nets.join(", ");
        match (&self.subject.name, self.subject.port) {
            (Some(name), _) => {
                format!("in the policy file, `addresses = [{nets}]` in the rule for {name}")
            }
            (None, Some(port)) => {
                format!(
                    "in a policy file, `[[allow]]` with `addresses = [{nets}]`, `ports = [{port}]`"
                )
            }
            (None, None) => {
                format!("in a policy file, `[[allow]]` with `addresses = [{nets}]` and `ports`")
            }
        }
    }
}
