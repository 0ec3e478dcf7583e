use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;
use thiserror::Error;

use super::serde_by_text::serde_by_text;

/// A network as documents have it: `10.0.0.0/8`, or an address alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Net(pub IpNet);

/// Why a text is no network.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum NetError {
    /// Neither an address nor one with a length.
    #[error("`{0}` is no address; write one like 203.0.113.7, or a network like 10.0.0.0/8")]
    Text(String),
    /// Bits are set that the network's length leaves out, so that it is unclear what is meant.
    #[error(
        "`{given}` has bits past its length; write {network}, or {address} for the one address"
    )]
    Bits {
        /// What was given.
        given: IpNet,
        /// The network that it is in.
        network: IpNet,
        /// The address alone.
        address: IpAddr,
    },
}

impl FromStr for Net {
    type Err = NetError;

    fn from_str(text: &str) -> Result<Self, NetError> {
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Self(address.into()));
        }
        let Ok(given) = text.parse::<IpNet>() else {
            return Err(NetError::Text(text.chars().take(64).collect()));
        };
        let network = given.trunc();
        if network != given {
            let address = given.addr();
            return Err(NetError::Bits {
                given,
                network,
                address,
            });
        }
        Ok(Self(given))
    }
}

impl fmt::Display for Net {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.prefix_len() == self.0.max_prefix_len() {
            write!(f, "{}", self.0.addr())
        } else {
            write!(f, "{}", self.0)
        }
    }
}

serde_by_text!(Net);
