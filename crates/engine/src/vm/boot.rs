use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream as StdStream;
use std::time::{Duration, Instant};

use fumehood_image::{Image, ImageFile};
use fumehood_protocol::{HelloReply, Limits, Refresh};
use fumehood_qemu::{
    Append, CommandLine, DescriptorIdentity, Initrd, Kernel, LaunchConfig, Launcher, Process,
    ProcessError, ProcessSpec, ProcessStart, SavedProcess,
};
use fumehood_sys::host::tsc_khz;
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;

use super::instance::{Monitor, PassedIdentities, Vm};
use super::layer_disk::Layer;
use super::machine::{Descriptors, Machine, Shape, kernel_arguments};
use crate::agent::{
    ChannelError, FEATURES, GuestInit, new_refresh, resume_with_refresh, say_hello,
};
use crate::error::{Error, ErrorKind};
use crate::host::Accelerator;

/// Memory of the guest that measures the floor, in MiB: that of a default run.
const FLOOR_MEMORY_MIB: u32 = 512;

/// Starts VMs from one image. Everything it needs was found and checked once.
#[derive(Debug)]
pub(crate) struct VmFactory {
    launcher: Launcher,
    image: Image,
    accelerator: Accelerator,
    kernel_arguments: String,
    /// The limits that every guest enforces.
    limits: Limits,
}

/// A QEMU process that was started, and the host's ends of its sockets.
#[derive(Debug)]
pub(crate) struct StartedVm {
    pub(crate) vm: Vm,
    pub(crate) agent: UnixStream,
    /// The cable of its network card, if it has one.
    pub(crate) network: Option<UnixStream>,
}

impl VmFactory {
    pub(crate) fn new(
        launch_config: LaunchConfig,
        accelerator: Accelerator,
        image: Image,
        limits: &Limits,
    ) -> Result<Self, Error> {
        if launch_config.require_all_layers {
            // Fail now, not with the first VM.
            Launcher::probe_isolation(launch_config.clone()).map_err(not_started)?;
        }

        let launcher = Launcher::new(launch_config).map_err(|e| {
            let message = format!("cannot start the thread that starts QEMU: {e}");
            Error::new(ErrorKind::Host, message)
        })?;

        Ok(Self {
            launcher,
            image,
            accelerator,
            kernel_arguments: kernel_arguments(accelerator, tsc_khz()),
            limits: *limits,
        })
    }

    /// Returns the image of the VMs.
    pub(crate) fn image(&self) -> &Image {
        &self.image
    }

    /// Returns the root file system of a machine.
    ///
    /// # Errors
    /// Returns [`ErrorKind::Host`].
    pub(crate) fn rootfs(&self, machine: &Machine) -> Result<Layer, Error> {
        if let Some(rootfs) = &machine.rootfs {
            return Ok(rootfs.clone());
        }
        let rootfs = self.image.rootfs();
        let file = std::fs::File::from(duplicate(rootfs)?);
        Ok(Layer::new(file, rootfs.sha256()))
    }

    /// Creates the identity of a guest.
    ///
    /// # Errors
    /// Returns [`ErrorKind::Host`] if this host has no randomness or no clock.
    pub(crate) fn new_refresh(&self, init: &GuestInit) -> Result<Refresh, Error> {
        new_refresh(&self.limits, init).map_err(|message| Error::new(ErrorKind::Host, message))
    }

    /// Returns the kernel's command line.
    pub(crate) fn kernel_arguments(&self) -> &str {
        &self.kernel_arguments
    }

    /// Returns the machine of this shape.
    pub(crate) fn machine(&self, shape: Shape) -> Machine {
        Machine::of(&self.image, shape, self.accelerator)
    }

    /// Boots a VM, and greets its agent in this version of the protocol.
    ///
    /// # Errors
    /// Returns [`ErrorKind::Boot`] with the end of the guest's console, and [`ErrorKind::Host`] if QEMU cannot start.
    pub(crate) async fn boot(
        &self,
        machine: &Machine,
        init: &GuestInit,
        protocol: u32,
        deadline: Duration,
    ) -> Result<StartedVm, Error> {
        let start = Instant::now();
        let initrd = duplicate(self.image.initrd())?;
        let (process, sockets) = self.start_kernel(machine, initrd).await?;
        let started = sockets.into_vm(process).await;

        // The identity is created while the kernel boots.
        let refresh = self.new_refresh(init)?;
        let mut ready = handshake_after_boot(started, &refresh, protocol, deadline).await?;
        ready.vm.start = start.elapsed();
        Ok(ready)
    }

    /// Boots the image's kernel with another initrd, and waits for the first byte on its console: the floor for
    /// measurements of boots.
    pub(crate) async fn floor(
        &self,
        initrd: OwnedFd,
        deadline: Duration,
    ) -> Result<Duration, Error> {
        let start = Instant::now();
        let machine = self.machine(Shape::plain(FLOOR_MEMORY_MIB));
        let (process, mut sockets) = self.start_kernel(&machine, initrd).await?;
        // The first byte shows that the first process runs.
        let first = tokio::time::timeout(deadline, sockets.console.read_u8()).await;
        let elapsed = start.elapsed();
        process.0.kill().await;

        match first {
            Ok(Ok(_)) => Ok(elapsed),
            _ => {
                let message = "the kernel did not start its first process";
                Err(Error::new(ErrorKind::Boot, message))
            }
        }
    }

    /// Starts a QEMU process whose guest waits for a saved state. The process inherits the state's memory.
    pub(crate) async fn start_waiting(
        &self,
        machine: &Machine,
        memory: OwnedFd,
    ) -> Result<StartedVm, Error> {
        let waiting = CommandLine::waiting;
        let (process, sockets) = self.start(machine, waiting, vec![memory]).await?;
        Ok(sockets.into_vm(process).await)
    }

    /// Starts a QEMU process that boots the image's kernel.
    async fn start_kernel(
        &self,
        machine: &Machine,
        initrd: OwnedFd,
    ) -> Result<(StartedProcess, VmSockets<UnixStream>), Error> {
        let kernel = duplicate(self.image.kernel())?;
        let (kernel_fd, initrd_fd) = (kernel.as_raw_fd(), initrd.as_raw_fd());
        let boots = |line: CommandLine| {
            line.with(&Kernel(kernel_fd))
                .with(&Initrd(initrd_fd))
                .with(&Append(self.kernel_arguments.clone()))
        };

        self.start(machine, boots, vec![kernel, initrd]).await
    }

    /// Continues a QEMU process that was saved as an image. Its guest stands still until the monitor gets `cont`.
    ///
    /// # Errors
    /// Returns [`ErrorKind::Host`].
    pub(crate) async fn continue_process(
        &self,
        machine: &Machine,
        saved: &SavedProcess,
    ) -> Result<StartedVm, Error> {
        let (host, passed) = self.passed(machine)?;
        let descriptors = passed.into_vec();
        let identities = PassedIdentities {
            kept: identities(&descriptors)?,
            read: Vec::new(),
        };
        let spec = ProcessSpec {
            start: ProcessStart::Continue {
                saved: saved.clone(),
                descriptors,
            },
            limits: machine.allowance(),
        };

        let process = self.launcher.start(spec).await.map_err(not_started)?;
        Ok(host.into_vm((process, identities)).await)
    }

    /// Starts QEMU; returns the host's ends of its sockets. `complete` adds the last part of the command line.
    async fn start(
        &self,
        machine: &Machine,
        complete: impl FnOnce(CommandLine) -> CommandLine,
        mut inherit: Vec<OwnedFd>,
    ) -> Result<(StartedProcess, VmSockets<UnixStream>), Error> {
        let (host, passed) = self.passed(machine)?;
        let line = complete(machine.command_line(passed.numbers()));
        let passed = passed.into_vec();
        let identities = PassedIdentities {
            kept: identities(&passed)?,
            read: identities(&inherit)?,
        };
        inherit.extend(passed);

        let spec = ProcessSpec {
            start: ProcessStart::Execute {
                args: line.into_args(),
                inherit,
            },
            limits: machine.allowance(),
        };

        let process = self.launcher.start(spec).await.map_err(not_started)?;
        Ok(((process, identities), host))
    }

    /// Creates the descriptors of a VM: the host's ends of its sockets, and what its QEMU gets.
    fn passed(
        &self,
        machine: &Machine,
    ) -> Result<(VmSockets<UnixStream>, PassedDescriptors), Error> {
        let SocketPairs { host, guest } = SocketPairs::new(machine.shape.network).map_err(|e| {
            let message = format!("cannot create the sockets of a VM: {e}");
            Error::new(ErrorKind::Host, message)
        })?;
        let layer = machine.shape.layer.as_ref().map(Layer::descriptor);
        let rootfs = match &machine.rootfs {
            Some(rootfs) => rootfs.descriptor()?,
            None => duplicate(self.image.rootfs())?,
        };

        let passed = PassedDescriptors {
            rootfs,
            layer: layer.transpose()?,
            sockets: guest,
        };
        Ok((host, passed))
    }
}

/// A QEMU process, and the descriptors that it was passed.
type StartedProcess = (Process, PassedIdentities);

fn identities(descriptors: &[OwnedFd]) -> Result<Vec<DescriptorIdentity>, Error> {
    let identities = descriptors.iter().map(DescriptorIdentity::of);
    identities.collect::<std::io::Result<_>>().map_err(|e| {
        let message = format!("cannot inspect a descriptor: {e}");
        Error::new(ErrorKind::Host, message)
    })
}

/// The descriptors that each VM of a machine gets anew.
struct PassedDescriptors {
    rootfs: OwnedFd,
    layer: Option<OwnedFd>,
    sockets: VmSockets<OwnedFd>,
}

impl PassedDescriptors {
    /// Returns their numbers, by which the command line names them.
    fn numbers(&self) -> Descriptors {
        let number = |fd: &Option<OwnedFd>| fd.as_ref().map_or(0, AsRawFd::as_raw_fd);
        Descriptors {
            rootfs: self.rootfs.as_raw_fd(),
            layer: number(&self.layer),
            network: number(&self.sockets.network),
            agent: self.sockets.agent.as_raw_fd(),
            console: self.sockets.console.as_raw_fd(),
            monitor: self.sockets.monitor.as_raw_fd(),
        }
    }

    /// Returns them in an order that depends only on the machine.
    fn into_vec(self) -> Vec<OwnedFd> {
        let disks = [self.rootfs].into_iter().chain(self.layer);
        disks.chain(self.sockets.into_fds()).collect()
    }
}

fn not_started(error: ProcessError) -> Error {
    let message = format!("cannot start QEMU: {error}");
    Error::new(ErrorKind::Host, message).caused_by(error)
}

/// Greets the agent of a guest that boots, and gives the guest its identity.
///
/// # Errors
/// Returns [`ErrorKind::Boot`] with the end of the guest's console.
pub(crate) async fn handshake_after_boot(
    started: StartedVm,
    refresh: &Refresh,
    protocol: u32,
    deadline: Duration,
) -> Result<StartedVm, Error> {
    let conversation = async |agent: &mut UnixStream| {
        let reply = say_hello(agent, protocol, &FEATURES, Some(refresh), deadline).await;
        reply.map(|reply| check_agent(&reply, protocol))
    };
    handshake(started, refresh, conversation).await
}

/// Gives a guest that was restored its identity, in the conversation in which its state was saved.
///
/// # Errors
/// Returns [`ErrorKind::Boot`] with the end of the guest's console.
pub(crate) async fn handshake_after_restore(
    started: StartedVm,
    refresh: &Refresh,
    deadline: Duration,
) -> Result<StartedVm, Error> {
    let conversation =
        async |agent: &mut UnixStream| resume_with_refresh(agent, refresh, deadline).await.map(Ok);
    handshake(started, refresh, conversation).await
}

/// Has this conversation with the agent while QEMU runs. The guest has its own identity afterwards.
async fn handshake(
    mut started: StartedVm,
    refresh: &Refresh,
    conversation: impl AsyncFnOnce(&mut UnixStream) -> Result<Result<(), Error>, ChannelError>,
) -> Result<StartedVm, Error> {
    let result = tokio::select! {
        result = conversation(&mut started.agent) => result,
        () = started.vm.ended() => Err(ChannelError::Closed),
    };

    match result {
        Ok(compatible) => {
            compatible?;
            started.vm.identity = (refresh.machine_id.clone(), refresh.hostname.clone());
            Ok(started)
        }
        Err(error) => Err(started.vm.startup_error(&error).await),
    }
}

/// Duplicates the descriptor of a file of the image, for QEMU to inherit: it needs no access to any path.
fn duplicate(file: &ImageFile) -> Result<OwnedFd, Error> {
    file.file().try_clone().map(OwnedFd::from).map_err(|e| {
        let message = format!(
            "cannot duplicate the descriptor of {}: {e}",
            file.path().display()
        );
        Error::new(ErrorKind::Host, message)
    })
}

/// Rejects an incompatible agent: that of an image which another version built.
fn check_agent(reply: &HelloReply, protocol: u32) -> Result<(), Error> {
    // Version 0 has no features: any client may speak it.
    let missing = FEATURES
        .iter()
        .find(|feature| !reply.features.iter().any(|has| has == *feature));

    if reply.protocol == protocol && (protocol == 0 || missing.is_none()) {
        return Ok(());
    }

    let message = format!(
        "the image's agent (version {}) is not compatible with this fumehood; run `fumehood image build`",
        reply.version
    );

    Err(Error::new(ErrorKind::Damaged, message))
}

/// One end of each socket of a VM.
struct VmSockets<T> {
    agent: T,
    console: T,
    monitor: T,
    network: Option<T>,
}

impl VmSockets<OwnedFd> {
    fn into_fds(self) -> impl Iterator<Item = OwnedFd> {
        let always = [self.agent, self.console, self.monitor];
        always.into_iter().chain(self.network)
    }
}

impl VmSockets<UnixStream> {
    async fn into_vm(self, (process, passed): StartedProcess) -> StartedVm {
        let monitor = Monitor::open(self.monitor).await;
        StartedVm {
            vm: Vm::new(process, passed, self.console, monitor),
            agent: self.agent,
            network: self.network,
        }
    }
}

/// The sockets of a VM. They are pairs: none of them has a name or outlives this process.
struct SocketPairs {
    host: VmSockets<UnixStream>,
    guest: VmSockets<OwnedFd>,
}

impl SocketPairs {
    fn new(network: bool) -> std::io::Result<Self> {
        let pair = || -> std::io::Result<(UnixStream, OwnedFd)> {
            let (host, guest) = StdStream::pair()?;
            host.set_nonblocking(true)?;
            Ok((UnixStream::from_std(host)?, guest.into()))
        };

        let (agent, console, monitor) = (pair()?, pair()?, pair()?);
        let network = network.then(pair).transpose()?;
        let (host_network, guest_network) = network.unzip();

        Ok(Self {
            host: VmSockets {
                agent: agent.0,
                console: console.0,
                monitor: monitor.0,
                network: host_network,
            },
            guest: VmSockets {
                agent: agent.1,
                console: console.1,
                monitor: monitor.1,
                network: guest_network,
            },
        })
    }
}
