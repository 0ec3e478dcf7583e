use thiserror::Error;

use super::rule_spec::{MAX_RULE_ITEMS, RuleSpecError};
use crate::package_index::IndexError;
use crate::policy::rule::LimitsError;
use crate::value::{HostName, IdentifierError, RuleId, SecretName};

/// Bytes of a document at most; the longest that anybody has written by hand is a tenth of it.
pub const MAX_DOCUMENT_BYTES: usize = 64 * 1024;
/// Rules of a policy at most; each decision may look at all of them.
pub const MAX_RULES: usize = 256;
/// Secrets of a policy at most; each request to their hosts is searched for all of them.
pub const MAX_SECRETS: usize = 64;

/// Why a document is no policy.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum DocumentError {
    /// Past [`MAX_DOCUMENT_BYTES`].
    #[error("a policy of {0} bytes; {MAX_DOCUMENT_BYTES} are allowed")]
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
    /// Past [`MAX_RULES`].
    #[error("a policy of {0} rules; {MAX_RULES} are allowed, each with many hosts")]
    ManyRules(usize),
    /// A rule.
    #[error("allow[{at}]: {error}")]
    RuleSpec {
        /// Its place, from 0.
        at: usize,
        /// What is wrong.
        error: RuleSpecError,
    },
    /// Two rules of one name.
    #[error(
        "two rules are called `{0}`; give each an `id` of its own (without one it is allow-N, by its place)"
    )]
    DuplicateId(RuleId),
    /// A name that was made from another one.
    #[error(transparent)]
    Id(#[from] IdentifierError),
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
    /// Past [`MAX_SECRETS`].
    #[error("a policy of {0} secrets; {MAX_SECRETS} are allowed")]
    ManySecrets(usize),
    /// Two secrets of one name.
    #[error("two secrets are called `{0}`; a secret may have several hosts")]
    DuplicateSecret(SecretName),
    /// None, or past [`MAX_RULE_ITEMS`].
    #[error("the secret `{0}` needs 1 to {MAX_RULE_ITEMS} of `host` and of `header`")]
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
