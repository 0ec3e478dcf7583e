//! Errors of policy documents.

use thiserror::Error;

use super::rule_spec::{MAX_RULE_ITEMS, RuleSpecError};
use crate::package_index::IndexError;
use crate::policy::rule::LimitsError;
use crate::value::{HostName, IdentifierError, RuleId, SecretName};

/// Maximum length of a document, in bytes: ten times the longest handwritten one.
pub const MAX_DOCUMENT_BYTES: usize = 64 * 1024;
/// Maximum number of rules of a policy. Each decision may evaluate all of them.
pub const MAX_RULES: usize = 256;
/// Maximum number of secrets of a policy. Each request to their hosts is searched for all of them.
pub const MAX_SECRETS: usize = 64;

/// Why a document is not a valid policy.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum DocumentError {
    /// The document is longer than [`MAX_DOCUMENT_BYTES`].
    #[error("the policy has {0} bytes; at most {MAX_DOCUMENT_BYTES} are allowed")]
    TooLarge(usize),
    /// The document does not have the right form.
    #[error("{}{message}", location(*line, path))]
    Form {
        /// The line, counted from 1, if it is known.
        line: Option<usize>,
        /// The path of the field; empty for the document itself.
        path: String,
        /// The error.
        message: String,
    },
    /// There are more than [`MAX_RULES`].
    #[error("the policy has {0} rules; at most {MAX_RULES} are allowed, each with many hosts")]
    TooManyRules(usize),
    /// A rule is invalid.
    #[error("allow[{at}]: {error}")]
    Rule {
        /// The rule's index, counted from 0.
        at: usize,
        /// The error.
        error: RuleSpecError,
    },
    /// Two rules have the same id.
    #[error(
        "two rules have the id `{0}`; give each a different `id` (the default is allow-N, by position)"
    )]
    DuplicateId(RuleId),
    /// A generated id is invalid.
    #[error(transparent)]
    Id(#[from] IdentifierError),
    /// A limit is invalid.
    #[error(transparent)]
    Limits(#[from] LimitsError),
    /// The configuration of this host's package tools is invalid.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// A package index is at a special address that its rule does not name.
    #[error(
        "the package index is at {0}, a special address; name it in the rule: addresses = [\"{0}\"]"
    )]
    IndexAddress(std::net::IpAddr),
    /// There are more than [`MAX_SECRETS`].
    #[error("the policy has {0} secrets; at most {MAX_SECRETS} are allowed")]
    TooManySecrets(usize),
    /// Two secrets have the same name.
    #[error("two secrets have the name `{0}`; write one secret with several hosts instead")]
    DuplicateSecret(SecretName),
    /// A secret has no host or header, or more than [`MAX_RULE_ITEMS`].
    #[error("the secret `{0}` needs 1 to {MAX_RULE_ITEMS} entries in `host` and in `header`")]
    SecretItems(SecretName),
    /// No rule allows the host of a secret.
    #[error(
        "the secret `{name}` is for {host}, which no rule allows; add [[allow]] host = \"{host}\""
    )]
    SecretHost {
        /// The secret's name.
        name: SecretName,
        /// The host.
        host: HostName,
    },
    /// A rule forwards connections to the host unread, so no secret can be put into requests.
    #[error(
        "the secret `{name}` is for {host}, whose connections rule `{rule}` forwards unread; remove its `raw`"
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

fn location(line: Option<usize>, path: &str) -> String {
    let line = line
        .map(|line| format!("line {line}: "))
        .unwrap_or_default();

    match path {
        "" | "." => line,
        path => format!("{line}`{path}`: "),
    }
}
