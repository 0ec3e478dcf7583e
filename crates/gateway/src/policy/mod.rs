//! What a guest may reach: rules, and the one function that decides.
//!
//! Nothing is allowed but what a rule allows. All of it is pure, except for what reads how
//! this host's own package tools are configured.

mod address;
mod decide;
mod decision;
mod limits;
mod name;
mod ports;
mod question;
mod rule;
mod text;
mod word;

pub use address::special;
pub use decide::decide;
pub use decision::{Decision, Pass, Reason, Subject, Verdict};
pub use limits::{CONNECTIONS, LEAST_BYTES_PER_S, LimitsError, NetworkLimits};
pub use name::{HOST_NAME_CHARS, Host, HostName, HostPattern, LABEL_CHARS, NameError};
pub use ports::{PORT_RANGES, Ports, PortsError};
pub use question::{Question, Said};
pub use rule::{Policy, Rule, SecretRule};
pub use word::{HeaderName, Method, RuleId, SecretName, WordError};
