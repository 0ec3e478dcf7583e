use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream as StdStream;
use std::path::Path;
use std::time::{Duration, Instant};

use fumehood_image::{Image, KernelChoice, Part};
use fumehood_protocol::{AGENT_PORT, HelloReply, LIMIT_PARAMETER, Limits, TABLE};
use fumehood_qemu::{
    Accel, Append, Blockdev, Chardev, CommandLine, Cpu, Device, Fdset, Initrd, Kernel, Launcher,
    Machine, Memory, Mon, Process, Sandbox as Seccomp, Serial,
};
use fumehood_sys::host::{Credentials, Walls, may_become, tsc_khz, usable_namespaces};
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;

use crate::accelerator::Accelerator;
use crate::channel::{ChannelError, FEATURES};
use crate::config::Qemu;
use crate::error::{Error, ErrorKind};
use crate::greeting::greet;
use crate::vm::Vm;

/// Cache of translated code, in MiB. With 64 the boot and a first interpreter together overflow it,
/// all of it is thrown away, and what runs is translated again: Python's first output came after
/// 532 ms instead of 451, bun's after 662 instead of 506 (medians, QEMU 7.2). See [`Accel::Tcg`].
const TB_SIZE_MIB: u32 = 128;

/// Memory of the guest that is the floor of measurements, in MiB: a default run's.
const FLOOR_MEMORY_MIB: u32 = 512;

/// Everything a VM is made of, found and checked once.
#[derive(Debug)]
pub(crate) struct Kit {
    launcher: Launcher,
    accelerator: Accelerator,
    tsc_khz: u64,
    /// Kernel arguments by which the agent learns of limits that an operator has set.
    limits: String,
}

impl Kit {
    pub(crate) fn new(
        qemu: &Qemu,
        accelerator: Accelerator,
        images: &Path,
        limits: &Limits,
    ) -> Result<Self, Error> {
        let host = |message: String| Error::new(ErrorKind::Host, message);
        let walls = walls(qemu, accelerator, images).map_err(host)?;
        let launcher = Launcher::new(
            &qemu.program,
            qemus_user(accelerator),
            usable_namespaces(),
            walls,
        )
        .map_err(|e| host(format!("no thread for starting QEMU: {e}")))?;
        let limits = limit_arguments(limits);
        Ok(Self {
            launcher,
            accelerator,
            tsc_khz: tsc_khz(),
            limits,
        })
    }

    /// Boots a VM and greets its agent in this version of the protocol; the socket is the agent's.
    ///
    /// # Errors
    /// [`ErrorKind::Boot`] with the guest's last words, [`ErrorKind::Host`] when QEMU cannot start.
    pub(crate) async fn boot(
        &self,
        image: &Image,
        memory_mib: u32,
        protocol: u32,
        deadline: Duration,
    ) -> Result<(Vm, UnixStream), Error> {
        let start = Instant::now();
        let (process, mut ours) = self.start(memory_mib, Parts::of(image)?).await?;
        let mut vm = Vm::new(process, ours.console, ours.monitor);
        let greeted = tokio::select! {
            greeted = greet(&mut ours.agent, protocol, &FEATURES, deadline) => greeted,
            () = vm.ended() => Err(ChannelError::Closed),
        };
        match greeted {
            Ok(reply) => {
                vm.boot = start.elapsed();
                agrees(&reply, protocol)?;
                Ok((vm, ours.agent))
            }
            Err(error) => Err(vm.stillborn(&error).await),
        }
    }

    /// Boots the image's kernel with another start file system and waits for the first byte on its
    /// console: the floor that a boot is measured against.
    pub(crate) async fn floor(
        &self,
        image: &Image,
        initrd: OwnedFd,
        deadline: Duration,
    ) -> Result<Duration, Error> {
        let start = Instant::now();
        let parts = Parts {
            initrd,
            ..Parts::of(image)?
        };
        let (process, mut ours) = self.start(FLOOR_MEMORY_MIB, parts).await?;
        let first = tokio::time::timeout(deadline, ours.console.read_u8()).await;
        let took = start.elapsed();
        process.kill().await;
        match first {
            Ok(Ok(_)) => Ok(took),
            _ => Err(Error::new(
                ErrorKind::Boot,
                "the kernel did not come to its first process",
            )),
        }
    }

    /// Starts QEMU with these parts; returns our ends of its sockets.
    async fn start(
        &self,
        memory_mib: u32,
        parts: Parts,
    ) -> Result<(Process, Ends<UnixStream>), Error> {
        let Wires { ours, theirs } = Wires::new()
            .map_err(|e| Error::new(ErrorKind::Host, format!("no sockets for a VM: {e}")))?;
        let args = self.command_line(memory_mib, &parts, &theirs).into_args();
        let parts = parts.into_fds().into_iter();
        let inherit = parts.chain(theirs.into_fds()).collect();
        let process = self.launcher.start(args, inherit).await.map_err(|e| {
            Error::new(ErrorKind::Host, format!("QEMU could not be started: {e}")).caused_by(e)
        })?;
        Ok((process, ours))
    }

    fn command_line(&self, memory_mib: u32, parts: &Parts, wires: &Ends<OwnedFd>) -> CommandLine {
        let (accel, cpu) = match self.accelerator {
            Accelerator::Kvm => (Accel::Kvm, Cpu::Host),
            Accelerator::Tcg => (
                Accel::Tcg {
                    tb_size_mib: TB_SIZE_MIB,
                },
                Cpu::Max,
            ),
        };
        let socket = |id: &str, fd: &OwnedFd| Chardev {
            id: id.into(),
            fd: fd.as_raw_fd(),
        };
        CommandLine::bare()
            .with(&Machine::Microvm { acpi: parts.acpi })
            .with(&accel)
            .with(&cpu)
            .with(&Memory(memory_mib))
            .with(&Seccomp)
            .with(&Kernel(parts.kernel.as_raw_fd()))
            .with(&Initrd(parts.initrd.as_raw_fd()))
            .with(&Append(self.kernel_arguments()))
            .with(&Fdset {
                fd: parts.rootfs.as_raw_fd(),
                set: 1,
            })
            .with(&Blockdev {
                node_name: "root".into(),
                set: 1,
            })
            .with(&Device::VirtioBlk {
                drive: "root".into(),
            })
            .with(&socket("console", &wires.console))
            .with(&Serial {
                chardev: "console".into(),
            })
            .with(&socket("agent", &wires.agent))
            .with(&Device::VirtioSerial)
            .with(&Device::VirtSerialPort {
                chardev: "agent".into(),
                name: AGENT_PORT.into(),
            })
            .with(&socket("monitor", &wires.monitor))
            .with(&Mon {
                chardev: "monitor".into(),
            })
    }

    /// The kernel's command line. `nokaslr` is a choice about the guest's own kernel, which guards
    /// nothing of the host's: the wall is the VM.
    fn kernel_arguments(&self) -> String {
        let mut arguments = String::from(
            "quiet console=ttyS0 panic=-1 reboot=t nokaslr cryptomgr.notests \
             8250.nr_uarts=1 noreplace-smp",
        );
        if self.accelerator == Accelerator::Tcg {
            // Without the rate the guest's clock falls back to jiffies; the other two spare the
            // kernel measurements that emulation makes slow and wrong.
            let tsc = format!(
                " tsc_early_khz={} tsc=reliable no_timer_check lapic_timer_khz=1000000",
                self.tsc_khz
            );
            arguments.push_str(&tsc);
        }
        arguments.push_str(&self.limits);
        arguments
    }
}

/// Limits that differ from the agent's own, as kernel arguments.
fn limit_arguments(limits: &Limits) -> String {
    let differing = limits
        .iter()
        .zip(TABLE)
        .filter(|((_, value), row)| *value != row.default);
    differing
        .map(|((name, value), _)| format!(" {LIMIT_PARAMETER}{name}={value}"))
        .collect()
}

/// The user that QEMU becomes; none = it keeps ours. Root gives up all it can: with KVM the group
/// of `/dev/kvm` is kept, and root itself where nobody else may open the device.
pub(crate) fn qemus_user(accelerator: Accelerator) -> Option<Credentials> {
    let user = match accelerator {
        Accelerator::Tcg => Credentials::NOBODY,
        Accelerator::Kvm => {
            let device = std::fs::metadata("/dev/kvm").ok()?;
            match device.mode() & 0o066 {
                0o060 => Credentials {
                    gid: device.gid(),
                    ..Credentials::NOBODY
                },
                0o066 | 0o006 => Credentials::NOBODY,
                _ => return None,
            }
        }
    };
    may_become(user).then_some(user)
}

/// Refuses an agent that does not speak as we do: that of an image which another version built.
fn agrees(reply: &HelloReply, protocol: u32) -> Result<(), Error> {
    let missing = FEATURES
        .iter()
        .find(|feature| !reply.features.iter().any(|has| has == *feature));
    if reply.protocol == protocol && (protocol == 0 || missing.is_none()) {
        return Ok(());
    }
    let message = format!(
        "the image's agent (version {}) does not speak as this fumehood does; run `fumehood image build`",
        reply.version
    );
    Err(Error::new(ErrorKind::Damaged, message))
}

fn walls(qemu: &Qemu, accelerator: Accelerator, images: &Path) -> Result<Option<Walls>, String> {
    // What belongs to a QEMU outside /usr lies beside its program: PREFIX/bin, PREFIX/lib, PREFIX/share.
    let prefix = qemu
        .program
        .parent()
        .and_then(Path::parent)
        .unwrap_or(Path::new("/usr"));
    let [bin, lib, share] = ["bin", "lib", "share"].map(|part| prefix.join(part));
    let programs = [
        qemu.program.as_path(),
        &bin,
        &lib,
        &share,
        Path::new("/usr"),
        Path::new("/lib"),
        Path::new("/lib64"),
        Path::new("/etc/ld.so.cache"),
    ];
    let files = [images, Path::new("/dev/urandom"), Path::new("/dev/null")];
    let devices: &[&Path] = if accelerator == Accelerator::Kvm {
        &[Path::new("/dev/kvm")]
    } else {
        &[]
    };
    Walls::new(&programs, &files, devices)
}

/// The image's parts as descriptors, for QEMU to inherit: it needs no right to any path.
struct Parts {
    kernel: OwnedFd,
    initrd: OwnedFd,
    rootfs: OwnedFd,
    /// Debian's kernel finds devices by ACPI only, ours by its command line.
    acpi: bool,
}

impl Parts {
    fn of(image: &Image) -> Result<Self, Error> {
        let fd = |part: &Part| {
            part.file().try_clone().map(OwnedFd::from).map_err(|e| {
                Error::new(
                    ErrorKind::Host,
                    format!("no descriptor for {}: {e}", part.path().display()),
                )
            })
        };
        let acpi = image.manifest().kernel.kind == KernelChoice::Debian;
        Ok(Self {
            kernel: fd(image.kernel())?,
            initrd: fd(image.initrd())?,
            rootfs: fd(image.rootfs())?,
            acpi,
        })
    }

    fn into_fds(self) -> [OwnedFd; 3] {
        [self.kernel, self.initrd, self.rootfs]
    }
}

/// One end of each of a VM's sockets.
struct Ends<T> {
    agent: T,
    console: T,
    monitor: T,
}

impl Ends<OwnedFd> {
    fn into_fds(self) -> [OwnedFd; 3] {
        [self.agent, self.console, self.monitor]
    }
}

/// A VM's sockets: pairs, so that nothing of them has a name or outlives us.
struct Wires {
    ours: Ends<UnixStream>,
    theirs: Ends<OwnedFd>,
}

impl Wires {
    fn new() -> std::io::Result<Self> {
        let pair = || -> std::io::Result<(UnixStream, OwnedFd)> {
            let (ours, theirs) = StdStream::pair()?;
            ours.set_nonblocking(true)?;
            Ok((UnixStream::from_std(ours)?, theirs.into()))
        };
        let (agent, console, monitor) = (pair()?, pair()?, pair()?);
        Ok(Self {
            ours: Ends {
                agent: agent.0,
                console: console.0,
                monitor: monitor.0,
            },
            theirs: Ends {
                agent: agent.1,
                console: console.1,
                monitor: monitor.1,
            },
        })
    }
}
