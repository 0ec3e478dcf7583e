use std::os::fd::RawFd;

use fumehood_image::{Image, KernelChoice};
use fumehood_protocol::{AGENT_PORT, network};
use fumehood_qemu::{
    Accel, Blockdev, Chardev, CommandLine, Cpu, Device, Fdset, Machine as Board, Memory, Monitor,
    Netdev, NullBlockdev, ResourceLimits, Sandbox as Seccomp, Serial,
};

use super::layer_disk::Layer;
use crate::host::Accelerator;

/// Size of the cache of translated code, in MiB. With 64, a boot and the first interpreter together overflow it: the
/// whole cache is discarded and running code is translated again. Python's first output came after 532 ms instead of
/// 451, bun's after 662 instead of 506 (medians, QEMU 7.2). See [`Accel::Tcg`].
const TB_SIZE_MIB: u32 = 128;

/// Memory limit of a QEMU besides its guest's, in MiB: translated code and a measured 60 MiB for itself, and the same
/// again as margin.
const QEMU_MIB: u64 = 2 * (TB_SIZE_MIB as u64 + 60);

/// Thread limit of a QEMU: 5 were observed, and up to 64 that read disks.
const THREADS: u64 = 96;

/// Processor limit of a QEMU, in hundredths of one processor: its guest has one, and its own loop rarely needs half of
/// another.
const PROCESSOR_PERCENT: u64 = 200;

/// Size of the disk in place of a layer, in bytes: one sector, too short for any file system.
const NO_LAYER_BYTES: u64 = 512;

/// The resources of a VM that its saved states depend on.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Shape {
    pub(crate) memory_mib: u32,
    /// Whether it has a network card; without one, a guest cannot reach anything.
    pub(crate) network: bool,
    /// The layer over the image's tree.
    pub(crate) layer: Option<Layer>,
}

impl Shape {
    /// Returns the shape with this memory, without network card and layer.
    pub(crate) const fn plain(memory_mib: u32) -> Self {
        Self {
            memory_mib,
            network: false,
            layer: None,
        }
    }
}

/// The virtual machine of all VMs of one shape. A saved state can only be restored into the same machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Machine {
    pub(crate) accelerator: Accelerator,
    pub(crate) shape: Shape,
    /// Debian's kernel finds devices only by ACPI, fumehood's kernel by its command line.
    pub(crate) acpi: bool,
    /// The root file system of a guest that was saved with another image; none = that of the engine's image.
    pub(crate) rootfs: Option<Layer>,
}

/// The numbers of inherited descriptors in QEMU's command line. Those of devices that a machine does not have are not
/// used.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Descriptors {
    pub(crate) rootfs: RawFd,
    pub(crate) layer: RawFd,
    pub(crate) network: RawFd,
    pub(crate) agent: RawFd,
    pub(crate) console: RawFd,
    pub(crate) monitor: RawFd,
}

impl Machine {
    pub(crate) fn of(image: &Image, shape: Shape, accelerator: Accelerator) -> Self {
        Self {
            accelerator,
            shape,
            acpi: image.manifest().kernel.kind == KernelChoice::Debian,
            rootfs: None,
        }
    }

    /// Returns the guest's memory, in bytes.
    pub(crate) fn memory_bytes(&self) -> u64 {
        u64::from(self.shape.memory_mib) << 20
    }

    /// Returns the limits of the host's resources for its QEMU.
    pub(crate) fn allowance(&self) -> ResourceLimits {
        ResourceLimits {
            // Twice: if a clone writes to memory that is empty in its template, the kernel allocates a page for
            // the template and one for the clone, and charges both to this process.
            memory_mib: 2 * u64::from(self.shape.memory_mib) + QEMU_MIB,
            threads: THREADS,
            processor_percent: PROCESSOR_PERCENT,
        }
    }

    /// Returns QEMU's command line without its last part: how the guest starts, from a kernel or from a saved state.
    pub(crate) fn command_line(&self, descriptors: Descriptors) -> CommandLine {
        let (accel, cpu) = match self.accelerator {
            Accelerator::Kvm => (Accel::Kvm, Cpu::Host),
            Accelerator::Tcg => (
                Accel::Tcg {
                    tb_size_mib: TB_SIZE_MIB,
                },
                Cpu::Max,
            ),
        };

        // The order of the devices is part of a saved state.
        let socket = |id: &str, fd| Chardev { id: id.into(), fd };
        let line = CommandLine::minimal()
            .with(&Board::Microvm { acpi: self.acpi })
            .with(&accel)
            .with(&cpu)
            .with(&Memory(self.shape.memory_mib))
            .with(&Seccomp);

        let line = self
            .with_disks(line, descriptors)
            .with(&socket("console", descriptors.console))
            .with(&Serial {
                chardev: "console".into(),
            })
            .with(&socket("agent", descriptors.agent))
            .with(&Device::VirtioSerial)
            .with(&Device::VirtSerialPort {
                chardev: "agent".into(),
                name: AGENT_PORT.into(),
            })
            .with(&socket("monitor", descriptors.monitor))
            .with(&Monitor {
                chardev: "monitor".into(),
            });

        self.with_card(line, descriptors)
    }

    /// Adds the image's root, and the second disk that every machine has: the layer, or an empty one.
    fn with_disks(&self, line: CommandLine, descriptors: Descriptors) -> CommandLine {
        let disk = |line: CommandLine, name: &str, fd, set| {
            line.with(&Fdset { fd, set }).with(&Blockdev {
                node_name: name.into(),
                set,
            })
        };

        let line = disk(line, ROOT, descriptors.rootfs, 1);
        let line = match self.shape.layer {
            Some(_) => disk(line, LAYER, descriptors.layer, 2),
            None => line.with(&NullBlockdev {
                node_name: LAYER.into(),
                size: NO_LAYER_BYTES,
            }),
        };

        [ROOT, LAYER].into_iter().fold(line, |line, drive| {
            line.with(&Device::VirtioBlk {
                drive: drive.into(),
            })
        })
    }

    fn with_card(&self, line: CommandLine, descriptors: Descriptors) -> CommandLine {
        const CABLE: &str = "net";
        if !self.shape.network {
            return line;
        }

        line.with(&Netdev {
            id: CABLE.into(),
            fd: descriptors.network,
        })
        .with(&Device::VirtioNet {
            netdev: CABLE.into(),
            mac: network::GUEST_MAC,
            mtu: network::MTU,
        })
    }

    /// Returns the part of the command line that a saved state depends on.
    pub(crate) fn text(&self) -> String {
        let args = self.command_line(Descriptors::default()).into_args();
        let words = args.iter().map(|arg| arg.to_string_lossy());
        words.collect::<Vec<_>>().join(" ")
    }
}

/// Names of the disks, which are `/dev/vda` and `/dev/vdb` in the guest.
const ROOT: &str = "root";
const LAYER: &str = "layer";

/// Returns the kernel's command line. `nokaslr` affects only the guest's kernel, which does not protect the host: the
/// VM does.
pub(crate) fn kernel_arguments(accelerator: Accelerator, tsc_khz: u64) -> String {
    let mut arguments = String::from(
        "quiet console=ttyS0 panic=-1 reboot=t nokaslr cryptomgr.notests \
         8250.nr_uarts=1",
    );

    if accelerator == Accelerator::Tcg {
        // Without the rate, the guest's clock falls back to jiffies. The other options avoid measurements that
        // are slow and wrong under emulation.
        let tsc =
            format!(" tsc_early_khz={tsc_khz} tsc=reliable no_timer_check lapic_timer_khz=1000000");
        arguments.push_str(&tsc);
    }

    arguments
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn text(shape: Shape) -> String {
        let machine = Machine {
            accelerator: Accelerator::Tcg,
            shape,
            acpi: false,
            rootfs: None,
        };
        machine.text()
    }

    #[test]
    fn a_plain_machine_has_two_disks_and_no_card() {
        let text = text(Shape::plain(512));
        let [root, layer] = ["drive=root", "drive=layer"].map(|drive| text.find(drive).unwrap());
        assert!(root < layer, "the first disk is the root: {text}");
        assert!(text.contains("driver=null-co,node-name=layer"), "{text}");
        assert!(!text.contains("net"), "{text}");
    }

    #[test]
    fn machines_of_different_shapes_differ() {
        let layer = Layer::open(Path::new("/dev/null"), "a").unwrap();
        let shapes = [
            Shape::plain(512),
            Shape::plain(256),
            Shape {
                network: true,
                ..Shape::plain(512)
            },
            Shape {
                layer: Some(layer),
                ..Shape::plain(512)
            },
        ];

        let texts = shapes.map(text);
        for (at, text) in texts.iter().enumerate() {
            assert!(!texts[..at].contains(text), "{text}");
        }
    }
}
