//! Values that policies and package indexes are written with: host names, networks, ports and identifiers.

mod host_name;
mod identifiers;
mod line_number;
mod network;
mod one_or_many;
mod ports;
mod serde_by_text;

pub use host_name::{HOST_NAME_CHARS, Host, HostName, HostPattern, LABEL_CHARS, NameError};
pub use identifiers::{HeaderName, Method, RuleId, SecretName, WordError};
pub(crate) use line_number::line_of;
pub use network::{Net, NetError};
pub(crate) use one_or_many::one_or_many;
pub use ports::{PORT_RANGES, Ports, PortsError};
