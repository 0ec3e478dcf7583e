//! Disks, network cards and other devices of the guest, and their host ends.

use std::fmt::{self, Display};
use std::os::fd::RawFd;

use super::builder::{QemuArg, escape};

/// `-add-fd`: makes an inherited descriptor available as `/dev/fdset/SET`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fdset {
    /// The descriptor.
    pub fd: RawFd,
    /// The number of the set, from 1.
    pub set: u32,
}

impl QemuArg for Fdset {
    const NAME: &'static str = "-add-fd";
}

impl Display for Fdset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "fd={},set={}", self.fd, self.set)
    }
}

/// `-blockdev`: a read-only raw disk from a set of descriptors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blockdev {
    /// Its node name, for [`Device::VirtioBlk`].
    pub node_name: String,
    /// The number of the [`Fdset`].
    pub set: u32,
}

impl QemuArg for Blockdev {
    const NAME: &'static str = "-blockdev";
}

impl Display for Blockdev {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { node_name, set } = self;
        write!(
            f,
            "driver=raw,node-name={},read-only=on,file.driver=file,file.filename=/dev/fdset/{set},file.locking=off",
            escape(node_name)
        )
    }
}

/// `-blockdev null-co`: a read-only disk of zeros, which needs no descriptor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NullBlockdev {
    /// Its node name, for [`Device::VirtioBlk`].
    pub node_name: String,
    /// Its size in bytes, a multiple of 512.
    pub size: u64,
}

impl QemuArg for NullBlockdev {
    const NAME: &'static str = "-blockdev";
}

impl Display for NullBlockdev {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { node_name, size } = self;
        write!(
            f,
            "driver=null-co,node-name={},read-only=on,read-zeroes=on,size={size}",
            escape(node_name)
        )
    }
}

/// `-netdev stream`: the link of a network card, one end of a socket pair. Each frame on it is preceded by its
/// length, in 4 bytes, big-endian.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Netdev {
    /// Its id, for [`Device::VirtioNet`].
    pub id: String,
    /// The inherited descriptor.
    pub fd: RawFd,
}

impl QemuArg for Netdev {
    const NAME: &'static str = "-netdev";
}

impl Display for Netdev {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, fd } = self;
        write!(
            f,
            "stream,id={},server=off,addr.type=fd,addr.str={fd}",
            escape(id)
        )
    }
}

/// `-device`: a device of the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Device {
    /// A disk.
    VirtioBlk {
        /// The node name of the [`Blockdev`].
        drive: String,
    },
    /// A network card. It has no control queue: a point-to-point link does not need its purposes (filters,
    /// multiple queues, announcing a migrated guest), and the guest's driver would use it at each boot. Nor is
    /// there a link state, since the link is never down.
    VirtioNet {
        /// The id of the [`Netdev`].
        netdev: String,
        /// Its Ethernet address.
        mac: [u8; 6],
        /// The maximum payload of a frame, in bytes, without its header of 14.
        mtu: u16,
    },
    /// The bus of [`Device::VirtSerialPort`], with the id `vser0`.
    VirtioSerial,
    /// A byte channel between host and guest.
    VirtSerialPort {
        /// The id of the [`Chardev`](super::Chardev).
        chardev: String,
        /// The name by which the guest finds it.
        name: String,
    },
}

impl QemuArg for Device {
    const NAME: &'static str = "-device";
}

impl Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::VirtioBlk { drive } => write!(f, "virtio-blk-device,drive={}", escape(drive)),
            Self::VirtioNet { netdev, mac, mtu } => {
                let mac = mac.map(|byte| format!("{byte:02x}")).join(":");
                write!(
                    f,
                    "virtio-net-device,netdev={},mac={mac},host_mtu={mtu},status=off,ctrl_vq=off,ctrl_rx=off,\
                     ctrl_rx_extra=off,ctrl_vlan=off,ctrl_mac_addr=off,ctrl_guest_offloads=off,guest_announce=off,\
                     mq=off",
                    escape(netdev)
                )
            }
            Self::VirtioSerial => f.write_str("virtio-serial-device,id=vser0,max_ports=4"),
            Self::VirtSerialPort { chardev, name } => {
                write!(
                    f,
                    "virtserialport,bus=vser0.0,nr=1,chardev={},name={}",
                    escape(chardev),
                    escape(name)
                )
            }
        }
    }
}
