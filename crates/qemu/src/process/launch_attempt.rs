use std::ffi::{CString, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::Duration;

use fumehood_launcher::{
    ContinueSpec, ExecuteSpec, IsolationLayer, LaunchSpec, LauncherMessage, Limits,
    MAX_PACKET_BYTES, Namespaces, Program, User, VERSION,
};
use fumehood_sys::host::{SpawnSpec, spawn};
use rustix::io::retry_on_intr;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socketpair,
};
use rustix::pipe::{PipeFlags, pipe_with};

use super::cgroup::Cgroup;
use super::child::OwnedChild;
use super::qemu_process::{KeepAlive, Process};
use super::spec::{LaunchConfig, ProcessError, ProcessSpec, ProcessStart};

/// How long a launcher may take for its next message. It makes some hundred system calls, which take 2 ms on an
/// idle machine.
const MESSAGE_TIMEOUT: Duration = Duration::from_secs(20);

/// The maximum size of a file that QEMU may write, in bytes: the state of a guest's devices, of some 12 KB,
/// without its memory.
const MAX_FILE_BYTES: u64 = 16 << 20;
/// The maximum number of descriptors that QEMU may have: its own are some thirty, plus one for each template
/// that it could map.
const MAX_DESCRIPTORS: u64 = 1024;
/// The address space that QEMU may use besides the guest's memory, in MiB: libraries, heaps of its threads and
/// translated code take some 1500.
const EXTRA_ADDRESSES_MIB: u64 = 8192;

/// Why an attempt failed.
pub(super) enum LaunchError {
    /// This isolation layer is not available here.
    Layer(IsolationLayer, String),
    /// Everything else.
    Other(ProcessError),
}

/// One attempt at starting QEMU with certain isolation layers.
pub(super) struct LaunchAttempt<'a> {
    pub(super) config: &'a LaunchConfig,
    pub(super) files: &'a [PathBuf],
    pub(super) namespaces: Namespaces,
    pub(super) spec: &'a ProcessSpec,
}

impl LaunchAttempt<'_> {
    pub(super) fn run(
        &self,
        cgroup: Option<Cgroup>,
        keep_alive: Option<KeepAlive>,
    ) -> Result<Process, LaunchError> {
        let request = self.encode_request(cgroup.as_ref())?;
        let started = self.start_launcher().map_err(|e| self.spawn_error(e))?;
        let StartedLauncher {
            mut launcher,
            socket,
            stderr,
        } = started;

        send(&socket, &request, SendFlags::NOSIGNAL).map_err(|e| self.spawn_error(e.into()))?;
        let (child, missing_layers) = self.wait_for_start(&socket)?;

        // The launcher itself exits right after it has cloned the process.
        launcher.wait().map_err(|e| self.spawn_error(e))?;
        Ok(Process::new(
            child,
            stderr,
            missing_layers,
            cgroup,
            keep_alive,
        ))
    }

    fn encode_request(&self, cgroup: Option<&Cgroup>) -> Result<Vec<u8>, LaunchError> {
        let (files, devices) = match self.spec.start {
            ProcessStart::Execute { .. } => (self.files.to_vec(), self.config.devices.clone()),
            // It has opened and mapped everything.
            ProcessStart::Continue { .. } => (Vec::new(), Vec::new()),
        };
        let request = LaunchSpec {
            version: VERSION,
            program: self.program()?,
            files,
            devices,
            namespaces: self.namespaces,
            user: self.user(),
            cgroup: cgroup.map_or(fumehood_launcher::Cgroup::Same, Cgroup::to_launcher),
            limits: Limits {
                file_bytes: MAX_FILE_BYTES,
                descriptors: MAX_DESCRIPTORS,
                threads: self.spec.limits.threads,
                address_bytes: (self.spec.limits.memory_mib + EXTRA_ADDRESSES_MIB) << 20,
            },
        };

        let packet = serde_json::to_vec(&request).map_err(failed)?;
        if packet.len() > MAX_PACKET_BYTES {
            return Err(failed(format!(
                "the launch request for QEMU has {} bytes; at most {MAX_PACKET_BYTES} are allowed",
                packet.len()
            )));
        }
        Ok(packet)
    }

    fn program(&self) -> Result<Program, LaunchError> {
        let number = AsRawFd::as_raw_fd;
        match &self.spec.start {
            ProcessStart::Execute { args, inherit } => {
                let to_text = |arg: &OsString| arg.to_str().map(str::to_owned);
                let args = args.iter().map(to_text).collect::<Option<_>>();
                Ok(Program::Execute(ExecuteSpec {
                    path: self.config.program.clone(),
                    args: args.ok_or_else(|| failed("an argument of QEMU is not valid UTF-8"))?,
                    inherit: inherit.iter().map(number).collect(),
                }))
            }
            ProcessStart::Continue { saved, descriptors } => Ok(Program::Continue(ContinueSpec {
                image: saved.description().as_raw_fd(),
                files: saved.file_descriptors().map(number).collect(),
                descriptors: descriptors.iter().map(number).collect(),
            })),
        }
    }

    /// A user namespace contains only one user.
    fn user(&self) -> User {
        match self.namespaces {
            Namespaces::InUserNamespace => User::Same,
            Namespaces::Privileged | Namespaces::None => self.config.user,
        }
    }

    /// Starts the launcher program.
    fn start_launcher(&self) -> io::Result<StartedLauncher> {
        let kind = SocketType::SEQPACKET;
        let (ours, theirs) = socketpair(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None)?;
        set_socket_timeout(&ours, Timeout::Recv, Some(MESSAGE_TIMEOUT))?;
        let (stderr, their_stderr) = pipe_with(PipeFlags::CLOEXEC)?;
        let null = File::options().write(true).open("/dev/null")?;

        let program = CString::new(self.config.launcher.as_os_str().as_bytes())?;
        let pid = spawn(&SpawnSpec {
            program: &program,
            // A process that continues from an image registers its own restartable sequences.
            environment: &[c"GLIBC_TUNABLES=glibc.pthread.rseq=0"],
            streams: [theirs.as_fd(), null.as_fd(), their_stderr.as_fd()],
            inherit: &self.spec.start.inherited(),
        })?;

        let launcher = OwnedChild::new(pid).ok_or(io::ErrorKind::InvalidData)?;
        Ok(StartedLauncher {
            launcher,
            socket: ours,
            stderr,
        })
    }

    /// Handles the launcher's messages until the program has started, which closes the socket.
    fn wait_for_start(
        &self,
        socket: &OwnedFd,
    ) -> Result<(OwnedChild, Vec<IsolationLayer>), LaunchError> {
        let mut child = None;
        let mut missing_layers = None;
        while let Some(message) = self.receive(socket)? {
            match message {
                LauncherMessage::Cloned { pid } => child = OwnedChild::new(pid),
                LauncherMessage::Ready { missing } => {
                    missing_layers = Some(missing);
                    // The permission to start.
                    send(socket, b"!", SendFlags::NOSIGNAL)
                        .map_err(|e| self.spawn_error(e.into()))?;
                }
                LauncherMessage::Failed {
                    layer: Some(layer),
                    reason,
                } => return Err(LaunchError::Layer(layer, reason)),
                LauncherMessage::Failed {
                    layer: None,
                    reason,
                } => return Err(failed(reason)),
            }
        }

        child
            .zip(missing_layers)
            .ok_or_else(|| failed("the launcher exited without a message"))
    }

    /// Receives one message; `None` if the socket is closed.
    fn receive(&self, socket: &OwnedFd) -> Result<Option<LauncherMessage>, LaunchError> {
        let mut packet = [0; 4096];
        match retry_on_intr(|| recv(socket, &mut packet[..], RecvFlags::empty())) {
            Ok((_, 0)) => Ok(None),
            Ok((_, bytes)) => {
                let message = serde_json::from_slice(&packet[..bytes]);
                message.map(Some).map_err(failed)
            }
            Err(rustix::io::Errno::AGAIN) => Err(failed(format!(
                "the launcher sent no message for {MESSAGE_TIMEOUT:?}"
            ))),
            Err(error) => Err(self.spawn_error(error.into())),
        }
    }

    fn spawn_error(&self, source: io::Error) -> LaunchError {
        LaunchError::Other(ProcessError::Spawn {
            program: self.config.launcher.clone(),
            source,
        })
    }
}

fn failed(reason: impl std::fmt::Display) -> LaunchError {
    LaunchError::Other(ProcessError::Launch(reason.to_string()))
}

/// A launcher program that was started.
struct StartedLauncher {
    launcher: OwnedChild,
    /// The socket to it.
    socket: OwnedFd,
    /// Its standard error, which becomes that of QEMU.
    stderr: OwnedFd,
}
