use std::ffi::OsString;
use std::fmt::{self, Display};
use std::os::fd::RawFd;

/// One switch of QEMU's command line.
pub trait QemuArg {
    /// The switch's name, with its dash.
    const NAME: &'static str;
}

/// Arguments for a QEMU process, one [`QemuArg`] after the other.
#[derive(Debug, Clone, Default)]
pub struct CommandLine(Vec<OsString>);

impl CommandLine {
    /// No devices, no configuration files, no display, no reboot: only what is added.
    #[must_use]
    pub fn minimal() -> Self {
        Self(
            [
                "-nodefaults",
                "-no-user-config",
                "-display",
                "none",
                "-no-reboot",
            ]
            .map(OsString::from)
            .to_vec(),
        )
    }

    /// Adds a switch.
    #[must_use]
    pub fn with<S: QemuArg + Display>(mut self, switch: &S) -> Self {
        self.0.push(S::NAME.into());
        self.0.push(switch.to_string().into());
        self
    }

    /// Adds what makes this a QEMU that waits: it starts without a machine, and its guest's memory and
    /// state are named by the monitor later (`object-add`, `qom-set`, `x-exit-preconfig`,
    /// `migrate-incoming`).
    #[must_use]
    pub fn standby(mut self) -> Self {
        // The state is saved by `xen-save-devices-state`, which writes no configuration section. A network
        // card has nobody to tell that it has moved.
        let switches = [
            "-preconfig",
            "-incoming",
            "defer",
            "-global",
            "migration.send-configuration=off",
            "-global",
            "migration.announce-rounds=0",
        ];
        self.0.extend(switches.map(OsString::from));
        self
    }

    /// The arguments.
    #[must_use]
    pub fn into_args(self) -> Vec<OsString> {
        self.0
    }
}

/// Doubles the commas of a value: in QEMU's option syntax a lone comma ends it.
fn escaped(value: &str) -> String {
    value.replace(',', ",,")
}

/// `-M`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Machine {
    /// The smallest machine: virtio over MMIO, no PCI.
    Microvm {
        /// Whether devices are announced by ACPI; without it, by the kernel's command line.
        acpi: bool,
    },
}

impl QemuArg for Machine {
    const NAME: &'static str = "-M";
}

impl Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // No description of the state's format is saved, so none is to be looked for.
            Self::Microvm { acpi } => write!(
                f,
                "microvm,acpi={},suppress-vmdesc=on",
                if *acpi { "on" } else { "off" }
            ),
        }
    }
}

/// `-accel`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accel {
    /// Software emulation.
    Tcg {
        /// Cache of translated code in MiB. QEMU's default lets its memory grow to 661 MB; too small
        /// a cache is thrown away again and again, with all that is in it.
        tb_size_mib: u32,
    },
    /// The CPU's own virtualisation.
    Kvm,
}

impl QemuArg for Accel {
    const NAME: &'static str = "-accel";
}

impl Display for Accel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcg { tb_size_mib } => write!(f, "tcg,thread=single,tb-size={tb_size_mib}"),
            Self::Kvm => f.write_str("kvm"),
        }
    }
}

/// `-cpu`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cpu {
    /// All that the accelerator can do, but for byte-wise string instructions said to be fast: emulated, they
    /// take a step for each byte, and kernel and C library clear and copy memory by them (measured: 50 MB of
    /// zeros in 130 ms instead of 195).
    Max,
    /// What the host's CPU is.
    Host,
}

impl QemuArg for Cpu {
    const NAME: &'static str = "-cpu";
}

impl Display for Cpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Max => "max,-erms",
            Self::Host => "host",
        })
    }
}

/// `-m`: the guest's memory in MiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory(pub u32);

impl QemuArg for Memory {
    const NAME: &'static str = "-m";
}

impl Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}M", self.0)
    }
}

/// `-kernel`, by an inherited descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kernel(pub RawFd);

impl QemuArg for Kernel {
    const NAME: &'static str = "-kernel";
}

impl Display for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/proc/self/fd/{}", self.0)
    }
}

/// `-initrd`, by an inherited descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Initrd(pub RawFd);

impl QemuArg for Initrd {
    const NAME: &'static str = "-initrd";
}

impl Display for Initrd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/proc/self/fd/{}", self.0)
    }
}

/// `-append`: the kernel's command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Append(pub String);

impl QemuArg for Append {
    const NAME: &'static str = "-append";
}

impl Display for Append {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// `-add-fd`: makes an inherited descriptor known as `/dev/fdset/SET`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fdset {
    /// The descriptor.
    pub fd: RawFd,
    /// The set's number, from 1.
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
    /// Its name, for [`Device::VirtioBlk`].
    pub node_name: String,
    /// The set of [`Fdset`].
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
            escaped(node_name)
        )
    }
}

/// `-blockdev null-co`: a read-only disk of zeros, which takes no descriptor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NullBlockdev {
    /// Its name, for [`Device::VirtioBlk`].
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
            escaped(node_name)
        )
    }
}

/// `-netdev stream`: the cable of a network card, one end of a socket pair. Each frame on it has its length
/// before it, in 4 bytes, the highest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Netdev {
    /// Its name, for [`Device::VirtioNet`].
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
            escaped(id)
        )
    }
}

/// `-chardev socket`: one end of a socket pair.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chardev {
    /// Its name, for the switch that uses it.
    pub id: String,
    /// The inherited descriptor.
    pub fd: RawFd,
}

impl QemuArg for Chardev {
    const NAME: &'static str = "-chardev";
}

impl Display for Chardev {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "socket,id={},fd={}", escaped(&self.id), self.fd)
    }
}

/// `-serial`: the guest's first serial port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Serial {
    /// The [`Chardev`].
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
    /// The [`Chardev`].
    pub chardev: String,
}

impl QemuArg for Monitor {
    const NAME: &'static str = "-mon";
}

impl Display for Monitor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "chardev={},mode=control", escaped(&self.chardev))
    }
}

/// `-device`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Device {
    /// A disk.
    VirtioBlk {
        /// The [`Blockdev`].
        drive: String,
    },
    /// A network card. It has no control queue: what that is for (filters, several queues, to announce a
    /// guest that has moved) a cable of two ends does not need, and the guest's driver would use it at
    /// each boot. Nor is the cable ever pulled out.
    VirtioNet {
        /// The [`Netdev`].
        netdev: String,
        /// Its address.
        mac: [u8; 6],
        /// The most that a frame carries, in bytes without its header of 14.
        mtu: u16,
    },
    /// The bus that [`Device::VirtSerialPort`] sits on, called `vser0`.
    VirtioSerial,
    /// A byte channel between host and guest.
    VirtSerialPort {
        /// The [`Chardev`].
        chardev: String,
        /// The name that the guest finds it by.
        name: String,
    },
}

impl QemuArg for Device {
    const NAME: &'static str = "-device";
}

impl Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::VirtioBlk { drive } => write!(f, "virtio-blk-device,drive={}", escaped(drive)),
            Self::VirtioNet { netdev, mac, mtu } => {
                let mac = mac.map(|byte| format!("{byte:02x}")).join(":");
                write!(
                    f,
                    "virtio-net-device,netdev={},mac={mac},host_mtu={mtu},status=off,ctrl_vq=off,ctrl_rx=off,\
                     ctrl_rx_extra=off,ctrl_vlan=off,ctrl_mac_addr=off,ctrl_guest_offloads=off,guest_announce=off,\
                     mq=off",
                    escaped(netdev)
                )
            }
            Self::VirtioSerial => f.write_str("virtio-serial-device,id=vser0,max_ports=4"),
            Self::VirtSerialPort { chardev, name } => {
                write!(
                    f,
                    "virtserialport,bus=vser0.0,nr=1,chardev={},name={}",
                    escaped(chardev),
                    escaped(name)
                )
            }
        }
    }
}

/// `-sandbox`: QEMU's own seccomp filter, with all it can deny.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sandbox;

impl QemuArg for Sandbox {
    const NAME: &'static str = "-sandbox";
}

impl Display for Sandbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words<S: QemuArg + Display>(switch: &S) -> Vec<String> {
        let args = CommandLine::default().with(switch).into_args();
        args.into_iter().map(|a| a.into_string().unwrap()).collect()
    }

    #[test]
    fn switches_are_spelled_as_qemu_spells_them() {
        assert_eq!(
            words(&Machine::Microvm { acpi: false }),
            ["-M", "microvm,acpi=off,suppress-vmdesc=on"]
        );
        assert_eq!(
            words(&Accel::Tcg { tb_size_mib: 64 }),
            ["-accel", "tcg,thread=single,tb-size=64"]
        );
        assert_eq!(words(&Memory(256)), ["-m", "256M"]);
        assert_eq!(words(&Fdset { fd: 9, set: 1 }), ["-add-fd", "fd=9,set=1"]);
        assert_eq!(
            words(&Chardev {
                id: "agent".into(),
                fd: 4
            }),
            ["-chardev", "socket,id=agent,fd=4"]
        );
    }

    #[test]
    fn a_network_card_and_its_cable() {
        let cable = Netdev {
            id: "net".into(),
            fd: 7,
        };
        assert_eq!(
            words(&cable),
            [
                "-netdev",
                "stream,id=net,server=off,addr.type=fd,addr.str=7"
            ]
        );
        let card = Device::VirtioNet {
            netdev: "net".into(),
            mac: [2, 0x66, 0, 0xff, 0x10, 1],
            mtu: 1500,
        };
        let word = &words(&card)[1];
        assert!(
            word.starts_with(
                "virtio-net-device,netdev=net,mac=02:66:00:ff:10:01,host_mtu=1500,status=off"
            ),
            "{word}"
        );
        assert!(!word.contains(' '), "{word}");
    }

    #[test]
    fn an_empty_disk() {
        let disk = NullBlockdev {
            node_name: "layer".into(),
            size: 512,
        };
        assert_eq!(
            words(&disk),
            [
                "-blockdev",
                "driver=null-co,node-name=layer,read-only=on,read-zeroes=on,size=512"
            ]
        );
    }

    #[test]
    fn a_comma_cannot_smuggle_in_an_option() {
        let chardev = Chardev {
            id: "a,server=on".into(),
            fd: 4,
        };
        assert_eq!(words(&chardev)[1], "socket,id=a,,server=on,fd=4");
    }
}
