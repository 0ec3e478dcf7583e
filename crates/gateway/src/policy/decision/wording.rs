//! Decisions in words: for the pages and events of denials, and for explanations.

use super::outcome::{Decision, Reason};
use crate::policy::rule::addresses_to_name;
use crate::value::Host;

impl Decision {
    /// Returns the reason as a sentence, without a final period.
    #[must_use]
    pub fn sentence(&self) -> String {
        match &self.reason {
            Reason::Rule => match &self.rule {
                Some(rule) => format!("rule `{rule}` allows it"),
                None => "it is allowed".into(),
            },
            Reason::NoRule => "no rule allows it".into(),
            Reason::PortNotAllowed { rule } => {
                format!("rule `{rule}` allows this host, but not this port")
            }
            Reason::SpecialAddress { range } => format!(
                "{} is a special address ({range}), which no rule for this host names",
                self.address()
            ),
            Reason::NotResolved => format!(
                "{} is not an address that an allowed name was resolved to, or the answer has expired",
                self.address()
            ),
            Reason::NoServerName => "the TLS ClientHello contains no server name (SNI)".into(),
            Reason::EncryptedServerName => {
                "TLS may hide another server name (Encrypted Client Hello)".into()
            }
            Reason::OtherServerName { name } => {
                format!("the TLS server name is {name}, which is not allowed at this address")
            }
            Reason::OtherHost { host, port } => {
                let port = port.map(|port| format!(":{port}")).unwrap_or_default();
                format!("the request is for {host}{port}, which is not allowed on this connection")
            }
            Reason::NotTlsNorHttp => {
                "the protocol is neither TLS nor HTTP, so the host name cannot be checked".into()
            }
            Reason::MethodHidden { rule } => {
                format!("rule `{rule}` allows only some methods, and TLS hides the method")
            }
            Reason::MethodNotAllowed { method, rule } => format!(
                "rule `{rule}` does not allow the method {}",
                method.escape_default()
            ),
            Reason::UpgradeHidesMethods { rule } => format!(
                "rule `{rule}` allows only some methods, and nothing on a WebSocket has a method that can be checked"
            ),
            Reason::Datagram => "UDP is never forwarded".into(),
            Reason::Protocol { protocol } => {
                format!("packets of protocol {protocol} are never forwarded, only TCP is")
            }
        }
    }

    /// Returns what to do to allow it; `None` if it is allowed, or if no policy can allow it.
    #[must_use]
    pub fn advice(&self) -> Option<String> {
        let host = self.host();
        Some(match &self.reason {
            Reason::Rule => return None,
            Reason::NoRule | Reason::NotResolved => self.allow_advice(&host),
            Reason::PortNotAllowed { rule } => {
                format!(
                    "{}; or add the port to rule `{rule}`",
                    self.allow_advice(&host)
                )
            }
            Reason::SpecialAddress { .. } => self.special_address_advice(),
            Reason::NoServerName => format!(
                "use a client that sends the server name; or allow any protocol: in the policy file, set `raw = true` in the rule for {host}"
            ),
            Reason::EncryptedServerName => {
                "disable Encrypted Client Hello, and its GREASE, in the client".into()
            }
            Reason::OtherServerName { name } => self.allow_advice(name.as_ref()),
            Reason::OtherHost { host, .. } => self.allow_advice(&host.to_string()),
            Reason::NotTlsNorHttp => format!(
                "in the policy file, set `raw = true` in the rule for {host}; the name is then checked only by DNS"
            ),
            Reason::MethodHidden { rule } => {
                format!("in the policy file, set `terminate = true` in rule `{rule}`")
            }
            Reason::MethodNotAllowed { method, rule } => {
                format!("in the policy file, add {method:?} to `methods` of rule `{rule}`")
            }
            Reason::UpgradeHidesMethods { rule } => format!(
                "in the policy file, remove `methods` from rule `{rule}`, or add a rule without `methods` for the host of the WebSocket"
            ),
            Reason::Datagram => "use TCP; HTTP/3 clients fall back to it by themselves".into(),
            Reason::Protocol { .. } => "use TCP".into(),
        })
    }

    /// Returns the text of a denial for the guest: which policy denied what, the reason, and how to allow it.
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

    /// Returns the host as rules write it.
    fn host(&self) -> String {
        match (&self.subject.name, self.subject.address) {
            (Some(name), _) => name.to_string(),
            (None, Some(address)) => Host::Address(address).to_string(),
            (None, None) => "the host".into(),
        }
    }

    /// Returns how to allow a host: by an option of the command line, and by a rule.
    fn allow_advice(&self, host: &str) -> String {
        let (key, value) = match host.parse() {
            Ok(Host::Address(address)) => ("addresses", format!("[\"{address}\"]")),
            _ => ("host", format!("\"{host}\"")),
        };

        // A rule with a host allows ports 80 and 443 by default.
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

    /// Returns how to name a special address: in the rule of its name or, if no name is known, in a separate rule.
    fn special_address_advice(&self) -> String {
        let Some(address) = self.subject.address else {
            return self.allow_advice(&self.host());
        };
        let nets: Vec<_> = addresses_to_name(address)
            .map(|address| format!("\"{address}\""))
            .collect();
        let nets = nets.join(", ");
        match (&self.subject.name, self.subject.port) {
            (Some(name), _) => {
                format!("in the policy file, add `addresses = [{nets}]` to the rule for {name}")
            }
            (None, Some(port)) => format!(
                "in a policy file, `[[allow]]` with `addresses = [{nets}]`, `ports = [{port}]`"
            ),
            (None, None) => {
                format!("in a policy file, `[[allow]]` with `addresses = [{nets}]` and `ports`")
            }
        }
    }
}
