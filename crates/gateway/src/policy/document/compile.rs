//! Converts documents to policies.

use std::collections::BTreeSet;
use std::num::NonZeroU16;

use super::error::{DocumentError, MAX_RULES, MAX_SECRETS};
use super::format::Document;
use super::rule_spec::{MAX_RULE_ITEMS, RuleSpec};
use crate::package_index::{Ecosystem, Index, IndexError};
use crate::policy::rule::{Policy, Rule, SecretRule, are_open};
use crate::value::{Host, HostPattern, Ports, RuleId};

impl Document {
    /// Converts the document to a policy. For a rule with an index, it reads this host's configuration.
    ///
    /// # Errors
    /// Fails if parts of the document contradict each other, or no index is configured on this host.
    pub fn policy(self, name: &str) -> Result<Policy, DocumentError> {
        self.policy_with(name, Index::of_host)
    }

    /// Converts the document to a policy, with the indexes that `index` returns.
    ///
    /// # Errors
    /// Fails if parts of the document contradict each other, or `index` fails.
    pub fn policy_with(
        self,
        name: &str,
        mut index: impl FnMut(Ecosystem) -> Result<Index, IndexError>,
    ) -> Result<Policy, DocumentError> {
        // Rules, with default ids and those for package indexes.
        let mut rules = Vec::new();
        for (at, spec) in self.allow.into_iter().enumerate() {
            spec.check()
                .map_err(|error| DocumentError::Rule { at, error })?;

            let id = match spec.id.clone() {
                Some(id) => id,
                None => format!("allow-{}", at + 1).parse()?,
            };

            match spec.index {
                Some(ecosystem) => rules.extend(rules_from_index(id, &spec, &index(ecosystem)?)?),
                None => rules.push(rule_from_spec(id, spec)),
            }
        }

        let secrets = self.secret.into_iter().map(|spec| SecretRule {
            name: spec.name,
            hosts: spec.host,
            headers: spec.header,
        });

        // Checks of the whole policy.
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
    /// Parses a document in TOML and converts it to a policy.
    ///
    /// # Errors
    /// Fails like [`Document::parse_toml`] and [`Document::policy`].
    pub fn parse_toml(text: &str, name: &str) -> Result<Self, DocumentError> {
        Document::parse_toml(text)?.policy(name)
    }

    /// Parses a document in JSON and converts it to a policy.
    ///
    /// # Errors
    /// Fails like [`Document::parse_json`] and [`Document::policy`].
    pub fn parse_json(text: &str, name: &str) -> Result<Self, DocumentError> {
        Document::parse_json(text)?.policy(name)
    }

    fn check(&self) -> Result<(), DocumentError> {
        if self.rules.len() > MAX_RULES {
            return Err(DocumentError::TooManyRules(self.rules.len()));
        }

        let mut ids = BTreeSet::new();
        if let Some(rule) = self.rules.iter().find(|rule| !ids.insert(&rule.id)) {
            return Err(DocumentError::DuplicateId(rule.id.clone()));
        }

        self.limits.check()?;
        if self.secrets.len() > MAX_SECRETS {
            return Err(DocumentError::TooManySecrets(self.secrets.len()));
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

        // The number of hosts and headers.
        let is_count = |count: usize| (1..=MAX_RULE_ITEMS).contains(&count);
        if !is_count(secret.hosts.len()) || !is_count(secret.headers.len()) {
            return Err(DocumentError::SecretItems(name));
        }

        // Each host needs a rule, and none of its rules may forward unread.
        for host in &secret.hosts {
            let matching: Vec<_> = self
                .rules
                .iter()
                .filter(|rule| rule.matches(host))
                .collect();

            let host = host.clone();
            if matching.is_empty() {
                return Err(DocumentError::SecretHost { name, host });
            }

            if let Some(rule) = matching.into_iter().find(|rule| rule.raw) {
                let rule = rule.id.clone();
                return Err(DocumentError::SecretRaw { name, host, rule });
            }
        }

        Ok(())
    }
}

fn rule_from_spec(id: RuleId, spec: RuleSpec) -> Rule {
    Rule {
        id,
        internet: spec.internet,
        hosts: spec.host,
        addresses: spec.addresses.into_iter().map(|net| net.0).collect(),
        ports: spec.ports.unwrap_or_else(if spec.internet {
            Ports::any
        } else {
            Ports::web
        }),
        methods: spec.methods,
        terminate: spec.terminate,
        raw: spec.raw,
    }
}

/// Returns a rule for each port of the index: a single rule would allow every host on every port.
fn rules_from_index(
    id: RuleId,
    spec: &RuleSpec,
    index: &Index,
) -> Result<Vec<Rule>, DocumentError> {
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
                    None => rules.push(index_rule(&id, rules.len(), spec, vec![pattern], *port)?),
                }
            }
            Host::Address(address) => {
                let nets: Vec<_> = spec.addresses.iter().map(|net| net.0).collect();
                if !are_open(&nets, *address) {
                    return Err(DocumentError::IndexAddress(*address));
                }

                let mut rule = index_rule(&id, rules.len(), spec, Vec::new(), *port)?;
                rule.addresses = vec![(*address).into()];
                // A rule without hosts has neither.
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
    spec: &RuleSpec,
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
        ..rule_from_spec(id, spec.clone())
    })
}
