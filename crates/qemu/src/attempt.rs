use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::Sender;
use std::time::Duration;

use fumehood_launcher::{
    IsolationLayer, LaunchSpec, LauncherMessage, Limits, Namespaces, PACKET_BYTES, User, VERSION,
};
use fumehood_sys::host::spawn;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socketpair,
};

use crate::cgroup::Cgroup;
use crate::launcher::{LaunchConfig, ProcessError, ProcessSpec, Request};
use crate::process::{Process, Reaped};

/// How long a launcher may take for its next word. It makes some hundred system calls: 2 ms where nothing
/// else runs.
const PATIENCE: Duration = Duration::from_secs(20);

/// The longest file that QEMU may write, in bytes: the state of a guest's devices, of some 12 KB, without
/// its memory.
const FILE_BYTES: u64 = 16 << 20;
/// Descriptors that QEMU may hold: its own are some thirty, and each template that it could map is one.
const DESCRIPTORS: u64 = 1024;
/// Addresses that QEMU may map beside the guest's memory, in MiB: libraries, heaps of its threads and
/// translated code come to some 1500.
const ADDRESSES_MIB: u64 = 8192;

/// Why an attempt came to nothing.
pub(crate) enum Refused {
    /// This wall cannot be put up here.
    IsolationLayer(IsolationLayer, String),
    /// Something else.
    Error(ProcessError),
}

/// One attempt at starting a QEMU within certain walls.
pub(crate) struct Attempt<'a> {
    pub(crate) setting: &'a LaunchConfig,
    pub(crate) files: &'a [PathBuf],
    pub(crate) namespaces: Namespaces,
    pub(crate) wanted: &'a ProcessSpec,
}

impl Attempt<'_> {
    pub(crate) fn make(
        &self,
        cgroup: Option<Cgroup>,
        hold: Option<Sender<Request>>,
    ) -> Result<Process, Refused> {
        let order = self.order(cgroup.as_ref())?;
        let (mut launcher, line) = self.launch().map_err(|e| self.failed(e))?;
        let stderr = launcher.child.stderr.take();
        send(&line, &order, SendFlags::NOSIGNAL).map_err(|e| self.failed(e.into()))?;
        let (child, missing) = self.converse(&line)?;
        // Its end is near: it has nothing to do but to go.
        launcher.child.wait().map_err(|e| self.failed(e))?;
        Ok(Process::new(child, stderr, missing, cgroup, hold))
    }

    fn order(&self, cgroup: Option<&Cgroup>) -> Result<Vec<u8>, Refused> {
        let text = |arg: &std::ffi::OsString| arg.to_str().map(str::to_owned);
        let args = self.wanted.args.iter().map(text).collect::<Option<_>>();
        let order = LaunchSpec {
            version: VERSION,
            program: self.setting.program.clone(),
            args: args.ok_or_else(|| refused("an argument of QEMU's is no text"))?,
            inherit: self.wanted.inherit.iter().map(AsRawFd::as_raw_fd).collect(),
            files: self.files.to_vec(),
            devices: self.setting.devices.clone(),
            namespaces: self.namespaces,
            user: self.user(),
            cgroup: cgroup.map_or(fumehood_launcher::Cgroup::Same, Cgroup::order),
            limits: Limits {
                file_bytes: FILE_BYTES,
                descriptors: DESCRIPTORS,
                threads: self.wanted.limits.threads,
                address_bytes: (self.wanted.limits.memory_mib + ADDRESSES_MIB) << 20,
            },
        };
        let order = serde_json::to_vec(&order).map_err(refused)?;
        if order.len() > PACKET_BYTES {
            return Err(refused(format!(
                "the order for QEMU has {} bytes, and {PACKET_BYTES} are the limit",
                order.len()
            )));
        }
        Ok(order)
    }

    /// Inside a user namespace there is but one user.
    fn user(&self) -> User {
        match self.namespaces {
            Namespaces::InUserNamespace => User::Same,
            Namespaces::Privileged | Namespaces::None => self.setting.user,
        }
    }

    fn launch(&self) -> io::Result<(Ended, OwnedFd)> {
        let kind = SocketType::SEQPACKET;
        let (ours, theirs) = socketpair(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None)?;
        set_socket_timeout(&ours, Timeout::Recv, Some(PATIENCE))?;
        let mut command = Command::new(&self.setting.launcher);
        command.env_clear().current_dir("/").stdin(theirs);
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        let inherit: Vec<_> = self.wanted.inherit.iter().collect();
        Ok((
            Ended {
                child: spawn(command, &inherit)?,
            },
            ours,
        ))
    }

    /// Hears the launcher until the program has started.
    fn converse(&self, line: &OwnedFd) -> Result<(Reaped, Vec<IsolationLayer>), Refused> {
        let mut child = None;
        let mut stand = None;
        while let Some(word) = self.next(line)? {
            match word {
                LauncherMessage::Begun(pid) => child = Reaped::new(pid),
                LauncherMessage::Ready { missing } => {
                    stand = Some(missing);
                    send(line, b"!", SendFlags::NOSIGNAL).map_err(|e| self.failed(e.into()))?;
                }
                LauncherMessage::Failed {
                    wall: Some(wall),
                    what,
                } => return Err(Refused::IsolationLayer(wall, what)),
                LauncherMessage::Failed { wall: None, what } => return Err(refused(what)),
            }
        }
        let silent = || refused("the launcher went away without a word");
        child.zip(stand).ok_or_else(silent)
    }

    /// None at the end of the line.
    fn next(&self, line: &OwnedFd) -> Result<Option<LauncherMessage>, Refused> {
        let mut packet = [0; 4096];
        let heard = recv(line, &mut packet[..], RecvFlags::empty());
        match heard {
            Ok((_, 0)) => Ok(None),
            Ok((_, bytes)) => {
                let word = serde_json::from_slice(&packet[..bytes]);
                word.map(Some).map_err(refused)
            }
            Err(rustix::io::Errno::AGAIN) => Err(refused(format!(
                "the launcher said nothing for {PATIENCE:?}"
            ))),
            Err(error) => Err(self.failed(error.into())),
        }
    }

    fn failed(&self, source: io::Error) -> Refused {
        Refused::Error(ProcessError::Spawn {
            program: self.setting.launcher.clone(),
            source,
        })
    }
}

fn refused(what: impl std::fmt::Display) -> Refused {
    Refused::Error(ProcessError::Refused(what.to_string()))
}

/// A launcher, which is waited for, whatever came of it.
struct Ended {
    child: Child,
}

impl Drop for Ended {
    fn drop(&mut self) {
        // Both fail only when it has been waited for already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
