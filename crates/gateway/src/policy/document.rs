use std::collections::BTreeSet;
use std::num::NonZeroU16;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::address::are_open;
use super::entry::{EntryError, RULE_ITEMS, RuleSpec};
use super::index::{Index, IndexError, Language};
use super::limits::{LimitsError, NetworkLimits};
use super::list::one_or_many;
use super::name::{Host, HostName, HostPattern};
use super::ports::Ports;
use super::rule::{Policy, Rule, SecretRule};
use super::word::{HeaderName, RuleId, SecretName, WordError};

/// Bytes of a document at most; the longest that anybody has written by hand is a tenth of it.
pub const DOCUMENT_BYTES: usize = 64 * 1024;
/// Rules of a policy at most; each decision may look at all of them.
pub const RULES: usize = 256;
/// Secrets of a policy at most; each request to their hosts is searched for all of them.
pub const SECRETS: usize = 64;

/// A policy as it is written, in TOML or JSON.
///
/// ```
/// use fumehood_gateway::policy::Document;
///
/// let document = Document::parse_toml(r#"
///     [[allow]]
///     host = ["api.example.com", "*.files.example.com"]
///     ports = [443, "8000-8010"]
/// "#)?;
/// let policy = document.policy("example")?;
/// assert_eq!(policy.rules[0].id.as_ref(), "allow-1");
/// # Ok::<(), fumehood_gateway::policy::DocumentError>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Document {
    /// Rules.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub allow: Vec<RuleSpec>,
    /// How much.
    pub limits: NetworkLimits,
    /// Secrets, without their values.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub secret: Vec<SecretEntry>,
}

/// A secret as it is written: a table `[[secret]]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SecretEntry {
    /// The guest's environment variable for its placeholder.
    pub name: SecretName,
    /// To whom it may go: names, and no patterns.
    #[serde(deserialize_with = "one_or_many")]
    pub host: Vec<HostName>,
    /// In which headers of a request.
    #[serde(default = "authorization", deserialize_with = "one_or_many")]
    pub header: Vec<HeaderName>,
}

impl SecretEntry {
    /// A secret for one host, in the header `authorization`.
    #[must_use]
    pub fn new(name: SecretName, host: HostName) -> Self {
        Self {
            name,
            host: vec![host],
            header: authorization(),
        }
    }
}

fn authorization() -> Vec<HeaderName> {
    "authorization".parse().into_iter().collect()
}

/// Why a document is no policy.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum DocumentError {
    /// Past [`DOCUMENT_BYTES`].
    #[error("a policy of {0} bytes; {DOCUMENT_BYTES} are allowed")]
    Large(usize),
    /// It has not the form of one.
    #[error("{}{message}", place(*line, path))]
    Form {
        /// The line, from 1, where it is known.
        line: Option<usize>,
        /// The field; empty: the document itself.
        path: String,
        /// What is wrong.
        message: String,
    },
    /// Past [`RULES`].
    #[error("a policy of {0} rules; {RULES} are allowed, each with many hosts")]
    ManyRules(usize),
    /// A rule.
    #[error("allow[{at}]: {error}")]
    RuleSpec {
        /// Its place, from 0.
        at: usize,
        /// What is wrong.
        error: EntryError,
    },
    /// Two rules of one name.
    #[error(
        "two rules are called `{0}`; give each an `id` of its own (without one it is allow-N, by its place)"
    )]
    DuplicateId(RuleId),
    /// A name that was made from another one.
    #[error(transparent)]
    Id(#[from] WordError),
    /// A limit.
    #[error(transparent)]
    Limits(#[from] LimitsError),
    /// The configuration of this host's package tools.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// A package index at a special address that its rule does not name.
    #[error(
        "the package index is at {0}, a special address; name it in the rule: addresses = [\"{0}\"]"
    )]
    IndexAddress(std::net::IpAddr),
    /// Past [`SECRETS`].
    #[error("a policy of {0} secrets; {SECRETS} are allowed")]
    ManySecrets(usize),
    /// Two secrets of one name.
    #[error("two secrets are called `{0}`; a secret may have several hosts")]
    DuplicateSecret(SecretName),
    /// None, or past [`RULE_ITEMS`].
    #[error("the secret `{0}` needs 1 to {RULE_ITEMS} of `host` and of `header`")]
    SecretItems(SecretName),
    /// No rule allows the host.
    #[error(
        "the secret `{name}` is for {host}, which no rule allows; add [[allow]] host = \"{host}\""
    )]
    SecretHost {
        /// The secret's name.
        name: SecretName,
        /// The host.
        host: HostName,
    },
    /// Where everything passes unread, no secret can be put in.
    #[error(
        "the secret `{name}` is for {host}, which rule `{rule}` lets through unread; leave its `raw` out"
    )]
    SecretRaw {
        /// The secret's name.
        name: SecretName,
        /// The host.
        host: HostName,
        /// The rule.
        rule: RuleId,
    },
}

fn place(line: Option<usize>, path: &str) -> String {
    let line = line
        .map(|line| format!("line {line}: "))
        .unwrap_or_default();
    match path {
        "" | "." => line,
        path => format!("{line}`{path}`: "),
    }
}

impl Document {
    /// # Errors
    /// It is too large, no TOML, or not of a policy's form; with the line.
    pub fn parse_toml(text: &str) -> Result<Self, DocumentError> {
        check_size(text)?;
        let form = |path: String, error: &toml::de::Error| DocumentError::Form {
            line: error.span().map(|span| line_of(text, span.start)),
            path,
            message: error.message().to_owned(),
        };
        let parser =
            toml::Deserializer::parse(text).map_err(|error| form(String::new(), &error))?;
        serde_path_to_error::deserialize(parser)
            .map_err(|error| form(error.path().to_string(), error.inner()))
    }

    /// # Errors
    /// It is too large, no JSON, or not of a policy's form.
    pub fn parse_json(text: &str) -> Result<Self, DocumentError> {
        check_size(text)?;
        let mut parser = serde_json::Deserializer::from_str(text);
        let form = |path: String, error: &serde_json::Error| DocumentError::Form {
            line: Some(error.line()).filter(|line| *line > 0),
            path,
            message: error.to_string(),
        };
        let document = serde_path_to_error::deserialize(&mut parser)
            .map_err(|error| form(error.path().to_string(), error.inner()))?;
        parser.end().map_err(|error| form(String::new(), &error))?;
        Ok(document)
    }

    /// The policy that it describes. Where it has an index, this host's configuration is read.
    ///
    /// # Errors
    /// Its parts do not go together, or no index is configured here.
    pub fn policy(self, name: &str) -> Result<Policy, DocumentError> {
        self.policy_with(name, Index::of_host)
    }

    /// The policy that it describes, with indexes as they are given.
    ///
    /// # Errors
    /// Its parts do not go together, or an index has an error.
    pub fn policy_with(
        self,
        name: &str,
        mut index: impl FnMut(Language) -> Result<Index, IndexError>,
    ) -> Result<Policy, DocumentError> {
        let mut rules = Vec::new();
        for (at, entry) in self.allow.into_iter().enumerate() {
            entry
                .check()
                .map_err(|error| DocumentError::RuleSpec { at, error })?;
            let id = match entry.id.clone() {
                Some(id) => id,
                None => format!("allow-{}", at + 1).parse()?,
            };
            match entry.index {
                Some(language) => rules.extend(of_index(id, &entry, &index(language)?)?),
                None => rules.push(of_entry(id, entry)),
            }
        }
        let secrets = self.secret.into_iter().map(|entry| SecretRule {
            name: entry.name,
            hosts: entry.host,
            headers: entry.header,
        });
        let policy = Policy {
            name: name.to_owned(),
            rules,
            limits: self.limits,
            secrets: secrets.collect(),
        };
        policy.check()?;
        Ok(policy)
    }
}

impl Policy {
    /// # Errors
    /// As [`Document::parse_toml`] and [`Document::policy`].
    pub fn parse_toml(text: &str, name: &str) -> Result<Self, DocumentError> {
        Document::parse_toml(text)?.policy(name)
    }

    /// # Errors
    /// As [`Document::parse_json`] and [`Document::policy`].
    pub fn parse_json(text: &str, name: &str) -> Result<Self, DocumentError> {
        Document::parse_json(text)?.policy(name)
    }

    fn check(&self) -> Result<(), DocumentError> {
        if self.rules.len() > RULES {
            return Err(DocumentError::ManyRules(self.rules.len()));
        }
        let mut ids = BTreeSet::new();
        if let Some(rule) = self.rules.iter().find(|rule| !ids.insert(&rule.id)) {
            return Err(DocumentError::DuplicateId(rule.id.clone()));
        }
        self.limits.check()?;
        if self.secrets.len() > SECRETS {
            return Err(DocumentError::ManySecrets(self.secrets.len()));
        }
        let mut names = BTreeSet::new();
        self.secrets.iter().try_for_each(|secret| {
            if !names.insert(&secret.name) {
                return Err(DocumentError::DuplicateSecret(secret.name.clone()));
            }
            self.check_secret(secret)
        })
    }

    fn check_secret(&self, secret: &SecretRule) -> Result<(), DocumentError> {
        let name = secret.name.clone();
        let is_count = |count: usize| (1..=RULE_ITEMS).contains(&count);
        if !is_count(secret.hosts.len()) || !is_count(secret.headers.len()) {
            return Err(DocumentError::SecretItems(name));
        }
        for host in &secret.hosts {
            let about: Vec<_> = self
                .rules
                .iter()
                .filter(|rule| rule.matches(host))
                .collect();
            let host = host.clone();
            if about.is_empty() {
                return Err(DocumentError::SecretHost { name, host });
            }
            if let Some(rule) = about.into_iter().find(|rule| rule.raw) {
                let rule = rule.id.clone();
                return Err(DocumentError::SecretRaw { name, host, rule });
            }
        }
        Ok(())
    }
}

fn of_entry(id: RuleId, entry: RuleSpec) -> Rule {
    Rule {
        id,
        hosts: entry.host,
        addresses: entry.addresses.into_iter().map(|net| net.0).collect(),
        ports: entry.ports.unwrap_or_else(Ports::web),
        methods: entry.methods,
        terminate: entry.terminate,
        raw: entry.raw,
    }
}

/// A rule for each of the index's ports, since hosts and ports of one rule go together in every way.
fn of_index(id: RuleId, entry: &RuleSpec, index: &Index) -> Result<Vec<Rule>, DocumentError> {
    let mut rules: Vec<Rule> = Vec::new();
    for (host, port) in &index.hosts {
        let ports = Ports::one(*port);
        match host {
            Host::Name(name) => {
                let pattern = HostPattern::Exact(name.clone());
                let same = rules
                    .iter_mut()
                    .find(|rule| rule.ports == ports && !rule.hosts.is_empty());
                match same {
                    Some(rule) => rule.hosts.push(pattern),
                    None => rules.push(index_rule(&id, rules.len(), entry, vec![pattern], *port)?),
                }
            }
            Host::Address(address) => {
                let nets: Vec<_> = entry.addresses.iter().map(|net| net.0).collect();
                if !are_open(&nets, *address) {
                    return Err(DocumentError::IndexAddress(*address));
                }
                let mut rule = index_rule(&id, rules.len(), entry, Vec::new(), *port)?;
                rule.addresses = vec![(*address).into()];
                // Neither is for a rule of addresses alone.
                (rule.terminate, rule.raw) = (false, false);
                rules.push(rule);
            }
        }
    }
    Ok(rules)
}

fn index_rule(
    id: &RuleId,
    before: usize,
    entry: &RuleSpec,
    hosts: Vec<HostPattern>,
    port: NonZeroU16,
) -> Result<Rule, DocumentError> {
    let id = match before {
        0 => id.clone(),
        n => format!("{id}-{}", n + 1).parse()?,
    };
    Ok(Rule {
        hosts,
        ports: Ports::one(port),
        ..of_entry(id, entry.clone())
    })
}

fn check_size(text: &str) -> Result<(), DocumentError> {
    if text.len() > DOCUMENT_BYTES {
        return Err(DocumentError::Large(text.len()));
    }
    Ok(())
}

/// From 1.
pub(super) fn line_of(text: &str, offset: usize) -> usize {
    let before = text.bytes().take(offset);
    1 + before.filter(|byte| *byte == b'\n').count()
}

#[cfg(test)]
mod tests;
