use std::os::fd::RawFd;

use fumehood_image::{Image, KernelChoice};
use fumehood_protocol::AGENT_PORT;
use fumehood_qemu::{
    Accel, Blockdev, Chardev, CommandLine, Cpu, Device, Fdset, Machine as Board, Memory, Mon,
    Sandbox as Seccomp, Serial,
};

use crate::accelerator::Accelerator;

/// Cache of translated code, in MiB. With 64 the boot and a first interpreter together overflow it,
/// all of it is thrown away, and what runs is translated again: Python's first output came after
/// 532 ms instead of 451, bun's after 662 instead of 506 (medians, QEMU 7.2). See [`Accel::Tcg`].
const TB_SIZE_MIB: u32 = 128;

/// The virtual machine that every VM of some memory is: a saved state fits no other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Machine {
    pub(crate) accelerator: Accelerator,
    pub(crate) memory_mib: u32,
    /// Debian's kernel finds devices by ACPI only, ours by its command line.
    acpi: bool,
}

/// Descriptors, as QEMU's command line names them.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Numbers {
    pub(crate) rootfs: RawFd,
    pub(crate) agent: RawFd,
    pub(crate) console: RawFd,
    pub(crate) monitor: RawFd,
}

impl Machine {
    pub(crate) fn of(image: &Image, memory_mib: u32, accelerator: Accelerator) -> Self {
        Self {
            accelerator,
            memory_mib,
            acpi: image.manifest().kernel.kind == KernelChoice::Debian,
        }
    }

    /// The guest's memory, in bytes.
    pub(crate) fn memory_bytes(&self) -> u64 {
        u64::from(self.memory_mib) << 20
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
        CommandLine::bare()
            .with(&Board::Microvm { acpi: self.acpi })
            .with(&accel)
            .with(&cpu)
            .with(&Memory(self.memory_mib))
            .with(&Seccomp)
            .with(&Fdset {
                fd: numbers.rootfs,
                set: 1,
            })
            .with(&Blockdev {
                node_name: "root".into(),
                set: 1,
            })
            .with(&Device::VirtioBlk {
                drive: "root".into(),
            })
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
            .with(&Mon {
                chardev: "monitor".into(),
            })
    }

    /// All of the command line that a saved state depends on.
    pub(crate) fn text(&self) -> String {
        let args = self.command_line(Numbers::default()).into_args();
        let words = args.iter().map(|arg| arg.to_string_lossy());
        words.collect::<Vec<_>>().join(" ")
    }
}

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
