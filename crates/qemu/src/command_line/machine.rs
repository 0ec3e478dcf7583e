//! The machine: its type, accelerator, CPU, memory and kernel, and QEMU's own sandbox.

use std::fmt::{self, Display};
use std::os::fd::RawFd;

use super::builder::QemuArg;

/// `-M`: the type of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Machine {
    /// The smallest machine: virtio over MMIO, no PCI.
    Microvm {
        /// Whether ACPI announces devices; otherwise the kernel's command line does.
        acpi: bool,
    },
}

impl QemuArg for Machine {
    const NAME: &'static str = "-M";
}

impl Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // States are saved without a description of their format, so QEMU must not expect one.
            Self::Microvm { acpi } => write!(
                f,
                "microvm,acpi={},suppress-vmdesc=on",
                if *acpi { "on" } else { "off" }
            ),
        }
    }
}

/// `-accel`: the accelerator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accel {
    /// Software emulation.
    Tcg {
        /// The cache of translated code, in MiB. With QEMU's default, its memory grows to 661 MB. A cache that is
        /// too small is flushed entirely again and again.
        tb_size_mib: u32,
    },
    /// Hardware virtualisation.
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

/// `-cpu`: the CPU model. No guest can run nested guests: the hypervisor's code for them (under KVM, in the host's
/// kernel) is large, and nothing that fumehood runs needs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cpu {
    /// All features of the accelerator, except the claim that byte-wise string instructions are fast. Emulated,
    /// they take a step for each byte, and kernel and C library would use them to clear and copy memory
    /// (measured: 50 MB of zeros in 130 ms instead of 195). No random number instructions: QEMU answers them from a
    /// generator in its own memory, which all processes of an image share.
    Max,
    /// The model of the host's CPU.
    Host,
}

impl QemuArg for Cpu {
    const NAME: &'static str = "-cpu";
}

impl Display for Cpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Max => "max,-erms,-svm,-vmx,-rdrand,-rdseed",
            Self::Host => "host,-svm,-vmx",
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

/// `-kernel`: the kernel, as an inherited descriptor.
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

/// `-initrd`: the initial RAM disk, as an inherited descriptor.
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

/// `-sandbox`: QEMU's own seccomp filter, with all denials enabled.
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
