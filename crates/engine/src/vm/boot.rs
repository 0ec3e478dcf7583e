use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream as StdStream;
use std::time::{Duration, Instant};

use fumehood_image::{Image, ImageFile};
use fumehood_protocol::{HelloReply, Limits, Refresh};
use fumehood_qemu::{
    Append, CommandLine, Initrd, Kernel, LaunchConfig, Launcher, Process, ProcessError, ProcessSpec,
};
use fumehood_sys::host::tsc_khz;
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;

use super::instance::{Monitor, Vm};
use super::layer_disk::Layer;
use super::machine::{Machine, Numbers, Shape, kernel_arguments};
use crate::agent::{
    ChannelError, FEATURES, GuestInit, new_refresh, resume_with_refresh, say_hello,
};
use crate::error::{Error, ErrorKind};
use crate::host::Accelerator;

/// Memory of the guest that is the floor of measurements, in MiB: a default run's.
const FLOOR_MEMORY_MIB: u32 = 512;

/// Everything a VM is made of, found and checked once.
#[derive(Debug)]
pub(crate) struct VmFactory {
    launcher: Launcher,
    image: Image,
    accelerator: Accelerator,
    kernel_arguments: String,
    /// What every guest is told that it may be asked for.
    limits: Limits,
}

/// A QEMU that has been started, and our ends of what it holds.
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
        if launch_config.full {
            // Rather now than with the first VM.
            Launcher::try_walls(launch_config.clone()).map_err(not_started)?;
        }
        let launcher = Launcher::new(launch_config).map_err(|e| {
            Error::new(ErrorKind::Host, format!("no thread for starting QEMU: {e}"))
        })?;
        Ok(Self {
            launcher,
            image,
            accelerator,
            kernel_arguments: kernel_arguments(accelerator, tsc_khz()),
            limits: *limits,
        })
    }

    /// The image that its VMs are of.
    pub(crate) fn image(&self) -> &Image {
        &self.image
    }

    /// What makes a guest one of its own.
    ///
    /// # Errors
    /// [`ErrorKind::Host`]: no randomness, no clock.
    pub(crate) fn new_refresh(&self, init: &GuestInit) -> Result<Refresh, Error> {
        new_refresh(&self.limits, init).map_err(|message| Error::new(ErrorKind::Host, message))
    }

    /// What a guest's kernel is told.
    pub(crate) fn kernel_arguments(&self) -> &str {
        &self.kernel_arguments
    }

    /// The machine of this shape.
    pub(crate) fn machine(&self, shape: Shape) -> Machine {
        Machine::of(&self.image, shape, self.accelerator)
    }

    /// Boots a VM and greets its agent in this version of the protocol.
    ///
    /// # Errors
    /// [`ErrorKind::Boot`] with the guest's last words, [`ErrorKind::Host`] when QEMU cannot start.
    pub(crate) async fn boot(
        &self,
        machine: &Machine,
        init: &GuestInit,
        protocol: u32,
        deadline: Duration,
    ) -> Result<StartedVm, Error> {
        let start = Instant::now();
        let initrd = descriptor(self.image.initrd())?;
        let (process, ends) = self.begin(machine, initrd).await?;
        let started = ends.started(process).await;
        let refresh = self.new_refresh(init)?;
        let mut met = handshake_after_boot(started, &refresh, protocol, deadline).await?;
        met.vm.start = start.elapsed();
        Ok(met)
    }

    /// Boots the image's kernel with another start file system and waits for the first byte on its
    /// console: the floor that a boot is measured against.
    pub(crate) async fn floor(
        &self,
        initrd: OwnedFd,
        deadline: Duration,
    ) -> Result<Duration, Error> {
        let start = Instant::now();
        let machine = self.machine(Shape::plain(FLOOR_MEMORY_MIB));
        let (process, mut ours) = self.begin(&machine, initrd).await?;
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

    /// Starts a QEMU whose guest waits for a saved state. It can be given one whose memory is in one
    /// of `memories`, under the descriptor's number.
    pub(crate) async fn wait(
        &self,
        machine: &Machine,
        memories: Vec<OwnedFd>,
    ) -> Result<StartedVm, Error> {
        let waiting = CommandLine::waiting;
        let (process, ends) = self.start(machine, waiting, memories).await?;
        Ok(ends.started(process).await)
    }

    /// Starts a QEMU that boots the image's kernel.
    async fn begin(
        &self,
        machine: &Machine,
        initrd: OwnedFd,
    ) -> Result<(Process, VmSockets<UnixStream>), Error> {
        let kernel = descriptor(self.image.kernel())?;
        let (kernel_number, initrd_number) = (kernel.as_raw_fd(), initrd.as_raw_fd());
        let boots = |line: CommandLine| {
            line.with(&Kernel(kernel_number))
                .with(&Initrd(initrd_number))
                .with(&Append(self.kernel_arguments.clone()))
        };
        self.start(machine, boots, vec![kernel, initrd]).await
    }

    /// Starts QEMU; returns our ends of its sockets.
    async fn start(
        &self,
        machine: &Machine,
        complete: impl FnOnce(CommandLine) -> CommandLine,
        mut inherit: Vec<OwnedFd>,
    ) -> Result<(Process, VmSockets<UnixStream>), Error> {
        let SocketPairs { ours, theirs } = SocketPairs::new(machine.shape.network)
            .map_err(|e| Error::new(ErrorKind::Host, format!("no sockets for a VM: {e}")))?;
        let rootfs = descriptor(self.image.rootfs())?;
        let layer = machine.shape.layer.as_ref().map(Layer::descriptor);
        let layer = layer.transpose()?;
        let number = |fd: &Option<OwnedFd>| fd.as_ref().map_or(0, AsRawFd::as_raw_fd);
        let numbers = Numbers {
            rootfs: rootfs.as_raw_fd(),
            layer: number(&layer),
            network: number(&theirs.network),
            agent: theirs.agent.as_raw_fd(),
            console: theirs.console.as_raw_fd(),
            monitor: theirs.monitor.as_raw_fd(),
        };
        let line = complete(machine.command_line(numbers));
        inherit.push(rootfs);
        inherit.extend(layer);
        inherit.extend(theirs.into_fds());
        let wanted = ProcessSpec {
            args: line.into_args(),
            inherit,
            allowance: machine.allowance(),
        };
        let process = self.launcher.start(wanted).await.map_err(not_started)?;
        Ok((process, ours))
    }
}

fn not_started(error: ProcessError) -> Error {
    let message = format!("QEMU could not be started: {error}");
    Error::new(ErrorKind::Host, message).caused_by(error)
}

/// Greets the agent of a guest that comes to life, and makes it one of its own.
///
/// # Errors
/// [`ErrorKind::Boot`] with the guest's last words.
pub(crate) async fn handshake_after_boot(
    started: StartedVm,
    refresh: &Refresh,
    protocol: u32,
    deadline: Duration,
) -> Result<StartedVm, Error> {
    let conversation = async |agent: &mut UnixStream| {
        let greeted = say_hello(agent, protocol, &FEATURES, Some(refresh), deadline).await;
        greeted.map(|reply| agrees(&reply, protocol))
    };
    handshake(started, refresh, conversation).await
}

/// The same for a guest that goes on from a saved state, and with the conversation that it stood in.
///
/// # Errors
/// [`ErrorKind::Boot`] with the guest's last words.
pub(crate) async fn handshake_after_restore(
    started: StartedVm,
    refresh: &Refresh,
    deadline: Duration,
) -> Result<StartedVm, Error> {
    let conversation =
        async |agent: &mut UnixStream| resume_with_refresh(agent, refresh, deadline).await.map(Ok);
    handshake(started, refresh, conversation).await
}

/// Has this conversation with the agent, for as long as its QEMU is there; the guest is one of its own then.
async fn handshake(
    started: StartedVm,
    refresh: &Refresh,
    conversation: impl AsyncFnOnce(&mut UnixStream) -> Result<Result<(), Error>, ChannelError>,
) -> Result<StartedVm, Error> {
    let mut started = started;
    let said = tokio::select! {
        said = conversation(&mut started.agent) => said,
        () = started.vm.ended() => Err(ChannelError::Closed),
    };
    match said {
        Ok(agreed) => {
            agreed?;
            started.vm.identity = (refresh.machine_id.clone(), refresh.hostname.clone());
            Ok(started)
        }
        Err(error) => Err(started.vm.startup_error(&error).await),
    }
}

/// A part of the image as a descriptor, for QEMU to inherit: it needs no right to any path.
fn descriptor(part: &ImageFile) -> Result<OwnedFd, Error> {
    part.file().try_clone().map(OwnedFd::from).map_err(|e| {
        let message = format!("no descriptor for {}: {e}", part.path().display());
        Error::new(ErrorKind::Host, message)
    })
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

/// One end of each of a VM's sockets.
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
    async fn started(self, process: Process) -> StartedVm {
        let monitor = Monitor::open(self.monitor).await;
        StartedVm {
            vm: Vm::new(process, self.console, monitor),
            agent: self.agent,
            network: self.network,
        }
    }
}

/// A VM's sockets: pairs, so that nothing of them has a name or outlives us.
struct SocketPairs {
    ours: VmSockets<UnixStream>,
    theirs: VmSockets<OwnedFd>,
}

impl SocketPairs {
    fn new(network: bool) -> std::io::Result<Self> {
        let pair = || -> std::io::Result<(UnixStream, OwnedFd)> {
            let (ours, theirs) = StdStream::pair()?;
            ours.set_nonblocking(true)?;
            Ok((UnixStream::from_std(ours)?, theirs.into()))
        };
        let (agent, console, monitor) = (pair()?, pair()?, pair()?);
        let network = network.then(pair).transpose()?;
        let (our_network, their_network) = network.unzip();
        Ok(Self {
            ours: VmSockets {
                agent: agent.0,
                console: console.0,
                monitor: monitor.0,
                network: our_network,
            },
            theirs: VmSockets {
                agent: agent.1,
                console: console.1,
                monitor: monitor.1,
                network: their_network,
            },
        })
    }
}
