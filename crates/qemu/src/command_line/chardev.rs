//! Character devices on the host, and the serial port and the monitor that use them.

use std::fmt::{self, Display};
use std::os::fd::RawFd;

use super::builder::{QemuArg, escape};

/// `-chardev socket`: one end of a socket pair.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chardev {
    /// Its id, for the option that uses it.
    pub id: String,
    /// The inherited descriptor.
    pub fd: RawFd,
}

impl QemuArg for Chardev {
    const NAME: &'static str = "-chardev";
}

impl Display for Chardev {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "socket,id={},fd={}", escape(&self.id), self.fd)
    }
}

/// `-serial`: the guest's first serial port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Serial {
    /// The id of the [`Chardev`].
    pub chardev: String,
}

impl QemuArg for Serial {
    const NAME: &'static str = "-serial";
}

impl Display for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "chardev:{}", self.chardev)
    }
}

/// `-mon`: the monitor, in QMP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Monitor {
    /// The id of the [`Chardev`].
    pub chardev: String,
}

impl QemuArg for Monitor {
    const NAME: &'static str = "-mon";
}

impl Display for Monitor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "chardev={},mode=control", escape(&self.chardev))
    }
}
