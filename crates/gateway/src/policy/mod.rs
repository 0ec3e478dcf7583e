//! Policies, and the one function that decides by them.
//!
//! Nothing is allowed unless a rule allows it. Everything here is pure, except [`Index::of_host`], which reads how this
//! host's own package tools are configured. Connections and packets do not belong here.

mod decision;
mod document;
mod index_access;
mod rule;

#[cfg(test)]
mod property_tests;

pub use crate::package_index::{
    Credential, Ecosystem, Index, IndexError, Login, MAX_INDEXES, ToolEnvironment,
};
pub use crate::value::{
    HeaderName, Host, HostName, HostPattern, IdentifierError, MAX_HOST_NAME_CHARS, MAX_LABEL_CHARS,
    MAX_PORT_RANGES, Method, NameError, Net, NetError, Ports, PortsError, RuleId, SecretName,
};
pub use decision::{
    ClientProtocol, Decision, Explanation, Handling, PolicyQuery, Reason, Scheme, Step, Subject,
    Target, TargetError, Verdict, decide, explain,
};
pub use document::{
    Document, DocumentError, MAX_DOCUMENT_BYTES, MAX_RULE_ITEMS, MAX_RULES, MAX_SECRETS, RuleSpec,
    RuleSpecError, SecretEntry,
};
pub use index_access::{CredentialSlot, HiddenSecret, IndexAccess, IndexAccessError};
pub use rule::{
    LimitsError, MAX_CONNECTIONS, MIN_BYTES_PER_S, NetworkLimits, Policy, Rule, SecretRule,
    names_special, special,
};
