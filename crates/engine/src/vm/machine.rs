use std::os::fd::RawFd;

use fumehood_image::{Image, KernelChoice};
use fumehood_protocol::{AGENT_PORT, network};
use fumehood_qemu::{
    Accel, Blockdev, Chardev, CommandLine, Cpu, Device, Fdset, Machine as Board, Memory, Monitor,
    Netdev, NullBlockdev, ResourceLimits, Sandbox as Seccomp, Serial,
};

use super::layer_disk::Layer;
use crate::host::Accelerator;

/// Cache of translated code, in MiB. With 64 the boot and a first interpreter together overflow it,
/// all of it is thrown away, and what runs is translated again: Python's first output came after
/// 532 ms instead of 451, bun's after 662 instead of 506 (medians, QEMU 7.2). See [`Accel::Tcg`].
const TB_SIZE_MIB: u32 = 128;

/// Memory that a QEMU may take beside its guest's, in MiB: translated code, and 60 MiB of its own as
/// measured; as much again as margin.
const QEMU_MIB: u64 = 2 * (TB_SIZE_MIB as u64 + 60);

/// Threads that a QEMU may have: 5 were seen, and up to 64 that read disks.
const THREADS: u64 = 96;

/// Processor time that a QEMU may take, in hundredths of one processor: its guest has one, and its own loop
/// seldom needs half of another.
const PROCESSOR_PERCENT: u64 = 200;

/// Bytes of the disk that stands where a layer would be: one sector, too short for any file system.
const NO_LAYER_BYTES: u64 = 512;

/// What a VM is to have.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Shape {
    pub(crate) memory_mib: u32,
    /// A network card; without one a guest has no way out.
    pub(crate) network: bool,
    /// What its programs find over the image's tree.
    pub(crate) layer: Option<Layer>,
}

impl Shape {
    /// Memory and nothing else.
    pub(crate) const fn plain(memory_mib: u32) -> Self {
        Self {
            memory_mib,
            network: false,
            layer: None,
        }
    }
}

/// The virtual machine that every VM of some shape is: a saved state fits no other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Machine {
    pub(crate) accelerator: Accelerator,
    pub(crate) shape: Shape,
    /// Debian's kernel finds devices by ACPI only, ours by its command line.
    acpi: bool,
}

/// Descriptors, as QEMU's command line names them; of what a machine has not, any number.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Numbers {
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
        }
    }

    /// The guest's memory, in bytes.
    pub(crate) fn memory_bytes(&self) -> u64 {
        u64::from(self.shape.memory_mib) << 20
    }

    /// What its QEMU may take of the host.
    pub(crate) fn allowance(&self) -> ResourceLimits {
        ResourceLimits {
            // Twice: where a clone touches memory that its template has none of, the kernel makes a page of
            // the template's and then the clone's own, and charges both to the one who came first.
            memory_mib: 2 * u64::from(self.shape.memory_mib) + QEMU_MIB,
            threads: THREADS,
            processor_percent: PROCESSOR_PERCENT,
        }
    }

    /// QEMU's command line but for how the guest comes to life: by a kernel, or by a saved state.
    pub(crate) fn command_line(&self, numbers: Numbers) -> CommandLine {
        let (accel, cpu) = match self.accelerator {
            Accelerator::Kvm => (Accel::Kvm, Cpu::Host),
            Accelerator::Tcg => (
                Accel::Tcg {
                    tb_size_mib: TB_SIZE_MIB,
                },
                Cpu::Max,
            ),
        };
        let socket = |id: &str, fd| Chardev { id: id.into(), fd };
        let line = CommandLine::bare()
            .with(&Board::Microvm { acpi: self.acpi })
            .with(&accel)
            .with(&cpu)
            .with(&Memory(self.shape.memory_mib))
            .with(&Seccomp);
        let line = self
            .with_disks(line, numbers)
            .with(&socket("console", numbers.console))
            .with(&Serial {
                chardev: "console".into(),
            })
            .with(&socket("agent", numbers.agent))
            .with(&Device::VirtioSerial)
            .with(&Device::VirtSerialPort {
                chardev: "agent".into(),
                name: AGENT_PORT.into(),
            })
            .with(&socket("monitor", numbers.monitor))
            .with(&Monitor {
                chardev: "monitor".into(),
            });
        self.with_card(line, numbers)
    }

    /// The image's root, and in every machine a second disk: the layer, or an empty one.
    fn with_disks(&self, line: CommandLine, numbers: Numbers) -> CommandLine {
        let disk = |line: CommandLine, name: &str, fd, set| {
            line.with(&Fdset { fd, set }).with(&Blockdev {
                node_name: name.into(),
                set,
            })
        };
        let line = disk(line, ROOT, numbers.rootfs, 1);
        let line = match self.shape.layer {
            Some(_) => disk(line, LAYER, numbers.layer, 2),
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

    fn with_card(&self, line: CommandLine, numbers: Numbers) -> CommandLine {
        const CABLE: &str = "net";
        if !self.shape.network {
            return line;
        }
        line.with(&Netdev {
            id: CABLE.into(),
            fd: numbers.network,
        })
        .with(&Device::VirtioNet {
            netdev: CABLE.into(),
            mac: network::GUEST_MAC,
            mtu: network::MTU,
        })
    }

    /// All of the command line that a saved state depends on.
    pub(crate) fn text(&self) -> String {
        let args = self.command_line(Numbers::default()).into_args();
        let words = args.iter().map(|arg| arg.to_string_lossy());
        words.collect::<Vec<_>>().join(" ")
    }
}

/// Names of the disks: the guest sees them as `/dev/vda` and `/dev/vdb`.
const ROOT: &str = "root";
const LAYER: &str = "layer";

/// The kernel's command line. `nokaslr` is a choice about the guest's own kernel, which guards
/// nothing of the host's: the wall is the VM.
pub(crate) fn kernel_arguments(accelerator: Accelerator, tsc_khz: u64) -> String {
    let mut arguments = String::from(
        "quiet console=ttyS0 panic=-1 reboot=t nokaslr cryptomgr.notests \
         8250.nr_uarts=1",
    );
    if accelerator == Accelerator::Tcg {
        // Without the rate the guest's clock falls back to jiffies; the other two spare the
        // kernel measurements that emulation makes slow and wrong.
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
    fn states_of_other_shapes_do_not_fit() {
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
