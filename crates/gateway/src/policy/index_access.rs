//! A guest's access to a package index: the policy for it, and placeholders for its credentials.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::num::NonZeroU16;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ipnet::IpNet;
use thiserror::Error;
use url::Url;

use super::rule::{Policy, Rule, SecretRule};
use crate::package_index::{Credential, Index, Login, host_and_port};
use crate::value::{Host, HostName, HostPattern, IdentifierError, Ports, SecretName};

/// A guest's access to an index, and to nothing else.
#[derive(Debug)]
pub struct IndexAccess {
    /// Allows requests that change nothing, to the hosts of the index.
    pub policy: Policy,
    /// The policy's secrets with their values, which `Debug` does not show.
    pub values: Vec<(SecretName, HiddenSecret)>,
    slots: Vec<(Url, Option<CredentialTemplate>)>,
}

/// The value of a secret, which `Debug` does not show.
pub struct HiddenSecret(pub String);

impl std::fmt::Debug for HiddenSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("HiddenSecret(..)")
    }
}

/// One index, as a guest's tool is configured for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CredentialSlot {
    /// The URL, with user and password if the tool uses them; one of the two is a placeholder.
    pub url: Url,
    /// The placeholder of the token, if the tool uses one.
    pub token: Option<String>,
}

/// The credentials of a tool, with the name of a secret in place of the secret part.
#[derive(Debug)]
enum CredentialTemplate {
    User(SecretName),
    Password(String, SecretName),
    Token(SecretName),
}

/// Why a guest cannot reach an index as it is configured. It contains no secrets.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum IndexAccessError {
    /// The credentials would be sent without TLS, or without a host name.
    #[error(
        "the package index {0} has credentials, which are only sent by https to a host name; configure such a URL, or remove the credentials"
    )]
    CredentialsWithoutTls(Url),
    /// The credentials cannot be decoded.
    #[error("the credentials of the package index {0} are not a user and password in base64")]
    Encoding(Url),
    /// The index is at a loopback address, which is the guest itself.
    #[error(
        "the package index {0} is at a loopback address, which inside a guest means the guest itself; make the index listen on another address of this host, and configure that"
    )]
    Loopback(Host),
    /// An identifier of the policy is invalid.
    #[error(transparent)]
    Word(#[from] IdentifierError),
}

impl Index {
    /// Returns the access to this index. `special` contains the special addresses of the index's hosts, which the policy
    /// allows, because this host's configuration names the index.
    ///
    /// # Errors
    /// Fails if the index has credentials that cannot be used, or is at a loopback address.
    pub fn reach(
        &self,
        name: &str,
        special: &BTreeMap<HostName, Vec<IpAddr>>,
    ) -> Result<IndexAccess, IndexAccessError> {
        let mut policy = Policy::nothing(name);

        // A rule for each host, with the special addresses of its name.
        for (at, (host, port)) in self.hosts.iter().enumerate() {
            let mut rule = self.rule(at, host, *port)?;
            if let Host::Name(name) = host {
                let open = special.get(name).into_iter().flatten();
                rule.addresses
                    .extend(open.map(|address| IpNet::from(*address)));
            }

            let mut addresses = rule.addresses.iter().map(IpNet::addr);
            if addresses.any(|address| address.is_loopback()) {
                return Err(IndexAccessError::Loopback(host.clone()));
            }

            policy.rules.push(rule);
        }

        // Credentials become secrets, and the guest gets placeholders.
        let mut access = IndexAccess {
            policy,
            values: Vec::new(),
            slots: Vec::new(),
        };

        for url in &self.urls {
            let credential = self.credentials.iter().find(|one| one.is_for(url));
            let template = credential.map(|found| access.hide_credential(url, &found.login));
            access.slots.push((url.clone(), template.transpose()?));
        }

        Ok(access)
    }

    fn rule(&self, at: usize, host: &Host, port: NonZeroU16) -> Result<Rule, IdentifierError> {
        let here = Some((host.clone(), port));
        let is_plain = self
            .urls
            .iter()
            .any(|url| url.scheme() == "http" && host_and_port(url) == here);

        let mut rule = Rule {
            id: format!("index-{}", at + 1).parse()?,
            internet: false,
            hosts: Vec::new(),
            addresses: Vec::new(),
            ports: Ports::one(port),
            methods: vec!["GET".parse()?, "HEAD".parse()?],
            terminate: false,
            raw: false,
        };

        match host {
            Host::Name(name) => {
                rule.hosts.push(HostPattern::Exact(name.clone()));
                rule.terminate = !is_plain;
            }
            Host::Address(address) => {
                rule.addresses.push((*address).into());
                // TLS cannot be terminated without a name, so its requests cannot be read.
                if !is_plain {
                    rule.methods.clear();
                }
            }
        }

        Ok(rule)
    }
}

impl IndexAccess {
    /// Returns the indexes, the main one first, with the placeholders that `environment` contains for the secrets.
    #[must_use]
    pub fn places(&self, environment: &[(String, String)]) -> Vec<CredentialSlot> {
        let placeholder_of = |secret: &SecretName| {
            let mut pairs = environment.iter();
            let found = pairs.find(|(name, _)| name == secret.as_ref());
            found.map_or("", |(_, placeholder)| placeholder.as_str())
        };

        let to_slot = |(url, template): &(Url, Option<CredentialTemplate>)| {
            let mut url = url.clone();
            let mut token = None;

            // These cannot fail for a URL that has a host.
            match template {
                None => {}
                Some(CredentialTemplate::User(secret)) => {
                    let _ = url.set_username(placeholder_of(secret));
                }
                Some(CredentialTemplate::Password(user, secret)) => {
                    let _ = (
                        url.set_username(user),
                        url.set_password(Some(placeholder_of(secret))),
                    );
                }
                Some(CredentialTemplate::Token(secret)) => {
                    token = Some(placeholder_of(secret).to_owned())
                }
            }

            CredentialSlot { url, token }
        };

        self.slots.iter().map(to_slot).collect()
    }

    /// Adds a secret for a login; returns the credentials that refer to it.
    fn hide_credential(
        &mut self,
        url: &Url,
        login: &Login,
    ) -> Result<CredentialTemplate, IndexAccessError> {
        let (Some((Host::Name(host), _)), "https") = (host_and_port(url), url.scheme()) else {
            return Err(IndexAccessError::CredentialsWithoutTls(url.clone()));
        };

        let secret: SecretName = format!("PACKAGE_INDEX_{}", self.values.len() + 1).parse()?;
        let encoding = || IndexAccessError::Encoding(url.clone());
        let (template, value) = match login {
            Login::Token(token) => (CredentialTemplate::Token(secret.clone()), token.clone()),
            login => match login.basic().ok_or_else(encoding)? {
                // The user is a token.
                (user, password) if password.is_empty() => {
                    (CredentialTemplate::User(secret.clone()), user)
                }
                (user, password) => (CredentialTemplate::Password(user, secret.clone()), password),
            },
        };

        self.policy.secrets.push(SecretRule {
            name: secret.clone(),
            hosts: vec![host],
            headers: vec!["authorization".parse()?],
        });
        self.values.push((secret, HiddenSecret(value)));

        Ok(template)
    }
}

impl Credential {
    /// Returns whether the credential is for this index. Its scheme does not count, because npm stores none.
    fn is_for(&self, url: &Url) -> bool {
        let origin = |url: &Url| (url.host_str().map(str::to_owned), url.port());
        origin(&self.url) == origin(url)
            && url
                .path()
                .starts_with(self.url.path().trim_end_matches('/'))
    }
}

impl Login {
    /// Returns the user and password, if the login has them.
    fn basic(&self) -> Option<(String, String)> {
        match self {
            Self::Basic { user, password } => Some((user.clone(), password.clone())),
            Self::Encoded(text) => {
                let plain = STANDARD.decode(text.trim()).ok()?;
                let plain = String::from_utf8(plain).ok()?;
                let (user, password) = plain.split_once(':')?;
                Some((user.to_owned(), password.to_owned()))
            }
            Self::Token(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::decision::{PolicyQuery, Verdict, decide};

    fn index(url: &str, login: Option<Login>) -> Index {
        let url: Url = url.parse().unwrap();
        let credential = |login| Credential {
            url: url.clone(),
            login,
        };

        Index {
            hosts: vec![host_and_port(&url).unwrap()],
            credentials: login.map(credential).into_iter().collect(),
            urls: vec![url],
        }
    }

    fn slot_and_value(index: &Index) -> (CredentialSlot, String) {
        let access = index.reach("index", &BTreeMap::new()).unwrap();
        let environment = [("PACKAGE_INDEX_1".to_owned(), "stand-in".to_owned())];
        let slot = access.places(&environment).remove(0);
        let value = access.values.first().map(|(_, value)| value.0.clone());
        (slot, value.unwrap_or_default())
    }

    #[test]
    fn a_guest_gets_placeholders_for_credentials() {
        let url = "https://index.example.com/simple/";
        let basic = |user: &str, password: &str| Login::Basic {
            user: user.into(),
            password: password.into(),
        };

        let with = |login| slot_and_value(&index(url, Some(login)));
        let (slot, value) = with(basic("me", "open sesame"));
        assert_eq!(
            slot.url.as_str(),
            "https://me:stand-in@index.example.com/simple/"
        );
        assert_eq!(value, "open sesame");
        let (slot, value) = with(basic("token", ""));
        assert_eq!(
            slot.url.as_str(),
            "https://stand-in@index.example.com/simple/"
        );
        assert_eq!(value, "token");
        let (slot, value) = with(Login::Encoded("bWU6b3BlbiBzZXNhbWU=".into()));
        assert!(slot.url.as_str().contains("me:stand-in@"), "{slot:?}");
        assert_eq!(value, "open sesame");
        let (slot, value) = with(Login::Token("abcdefgh".into()));
        assert_eq!((slot.url.as_str(), value.as_str()), (url, "abcdefgh"));
        assert_eq!(slot.token.as_deref(), Some("stand-in"));
    }

    #[test]
    fn credentials_are_sent_only_to_their_own_index_and_in_tls() {
        let login = Login::Token("abcdefgh".into());
        let mut other = index("https://index.example.com/", Some(login.clone()));
        other.credentials[0].url = "https://other.example.com/".parse().unwrap();
        assert_eq!(slot_and_value(&other).0.token, None);

        for url in ["http://index.example.com/", "https://203.0.113.7/"] {
            let error = index(url, Some(login.clone())).reach("index", &BTreeMap::new());
            let error = error.unwrap_err().to_string();
            assert!(
                error.contains("https") && !error.contains("abcdefgh"),
                "{error}"
            );
        }

        let undecodable = index(
            "https://index.example.com/",
            Some(Login::Encoded("?".into())),
        );

        assert!(matches!(
            undecodable.reach("index", &BTreeMap::new()),
            Err(IndexAccessError::Encoding(_))
        ));
    }

    #[test]
    fn an_index_at_a_loopback_address_is_rejected() {
        let refused = |url: &str, special: &BTreeMap<_, _>| {
            let reached = index(url, None).reach("index", special);
            matches!(reached, Err(IndexAccessError::Loopback(_)))
        };
        assert!(refused("http://127.0.0.1:8000/", &BTreeMap::new()));
        assert!(refused("http://[::1]:8000/", &BTreeMap::new()));
        assert!(!refused("http://10.0.0.7:8000/", &BTreeMap::new()));
        let loopback = vec!["127.0.0.1".parse().unwrap()];
        let special = BTreeMap::from([("index.example.com".parse().unwrap(), loopback)]);
        assert!(refused("https://index.example.com/", &special));
    }

    #[test]
    fn a_configured_index_at_a_private_address_is_open_and_read() {
        let name: HostName = "index.example.com".parse().unwrap();
        let private: IpAddr = "10.0.0.7".parse().unwrap();
        let index = index("https://index.example.com:8443/", None);
        let resolved = |special: &BTreeMap<_, _>| {
            let policy = index.reach("index", special).unwrap().policy;
            let question = PolicyQuery::Resolved {
                name: &name,
                address: private,
            };
            decide(&policy, &question).is_allowed()
        };
        assert!(!resolved(&BTreeMap::new()));
        let special = BTreeMap::from([(name.clone(), vec![private])]);
        assert!(resolved(&special));
        let policy = index.reach("index", &special).unwrap().policy;
        let request = |method| {
            let question = PolicyQuery::Request {
                address: private,
                port: 8443,
                names: std::slice::from_ref(&name),
                tls: Some(&name),
                host: &Host::Name(name.clone()),
                host_port: Some(8443),
                method,
                upgrades: false,
            };

            decide(&policy, &question).verdict
        };
        assert!(matches!(request("GET"), Verdict::Allow(_)));
        assert!(matches!(request("PUT"), Verdict::Deny));
    }
}
