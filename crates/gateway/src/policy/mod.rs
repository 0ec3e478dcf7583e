//! What a guest may reach: rules, and the one function that decides.
//!
//! Nothing is allowed but what a rule allows. All of it is pure, except [`Index::of_host`], which reads how
//! this host's own package tools are configured.

mod address;
mod advice;
mod decide;
mod decision;
mod document;
mod entry;
mod explain;
mod index;
mod limits;
mod list;
mod name;
mod net;
mod ports;
mod question;
mod rule;
mod text;
mod word;

pub use address::{names_special, special};
pub use decide::decide;
pub use decision::{Decision, Pass, Reason, Subject, Verdict};
pub use document::{DOCUMENT_BYTES, Document, DocumentError, RULES, SECRETS, SecretEntry};
pub use entry::{EntryError, RULE_ITEMS, RuleSpec};
pub use explain::{Explanation, Scheme, Step, Target, TargetError, explain};
pub use index::{
    Credential, CredentialSlot, Hidden, INDEXES, Index, IndexAccess, IndexError, Language, Login,
    ReachError, Surroundings,
};
pub use limits::{CONNECTIONS, LEAST_BYTES_PER_S, LimitsError, NetworkLimits};
pub use name::{HOST_NAME_CHARS, Host, HostName, HostPattern, LABEL_CHARS, NameError};
pub use net::{Net, NetError};
pub use ports::{PORT_RANGES, Ports, PortsError};
pub use question::{Question, Said};
pub use rule::{Policy, Rule, SecretRule};
pub use word::{HeaderName, Method, RuleId, SecretName, WordError};

#[cfg(test)]
mod properties;
