//! Validated values: host names, networks, ports and identifiers.
//!
//! Each is parsed from text and shown as text. Rules and decisions do not belong here.

mod host_name;
mod identifiers;
mod line_number;
mod network;
mod one_or_many;
mod ports;
mod serde_by_text;

pub use host_name::{Host, HostName, HostPattern, MAX_HOST_NAME_CHARS, MAX_LABEL_CHARS, NameError};
pub use identifiers::{HeaderName, IdentifierError, Method, RuleId, SecretName};
pub(crate) use line_number::line_of;
pub use network::{Net, NetError};
pub(crate) use one_or_many::one_or_many;
pub use ports::{MAX_PORT_RANGES, Ports, PortsError};
