//! What a guest may reach: rules, and the one function that decides.
//!
//! Nothing is allowed but what a rule allows. All of it is pure, except [`Index::of_host`], which reads how
//! this host's own package tools are configured.

mod decision;
mod document;
mod index_access;
mod rule;

#[cfg(test)]
mod property_tests;

pub use crate::package_index::{
    Credential, Ecosystem, INDEXES, Index, IndexError, Login, Surroundings,
};
pub use crate::value::{
    HOST_NAME_CHARS, HeaderName, Host, HostName, HostPattern, LABEL_CHARS, Method, NameError, Net,
    NetError, PORT_RANGES, Ports, PortsError, RuleId, SecretName, WordError,
};
pub use decision::{
    Decision, Explanation, Pass, Question, Reason, Said, Scheme, Step, Subject, Target,
    TargetError, Verdict, decide, explain,
};
pub use document::{
    Document, DocumentError, EntryError, MAX_DOCUMENT_BYTES, RULE_ITEMS, RULES, RuleSpec, SECRETS,
    SecretEntry,
};
pub use index_access::{CredentialSlot, Hidden, IndexAccess, ReachError};
pub use rule::{
    CONNECTIONS, LEAST_BYTES_PER_S, LimitsError, NetworkLimits, Policy, Rule, SecretRule,
    names_special, special,
};
