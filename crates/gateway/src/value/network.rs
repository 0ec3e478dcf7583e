//! Networks.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;
use thiserror::Error;

use super::serde_by_text::serde_by_text;

/// A network as it is written in documents: `10.0.0.0/8`, or a single address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Net(pub IpNet);

/// Why a text is not a network.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum NetError {
    /// The text is neither an address nor a network.
    #[error("`{0}` is not an address; write one like 203.0.113.7, or a network like 10.0.0.0/8")]
    Text(String),
    /// Bits outside the network's prefix are set, so that the intended network is unclear.
    #[error(
        "`{given}` has bits set outside its prefix; write {network}, or {address} for the single address"
    )]
    Bits {
        /// The text's address and prefix length.
        given: IpNet,
        /// The network that contains the address.
        network: IpNet,
        /// The address.
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
