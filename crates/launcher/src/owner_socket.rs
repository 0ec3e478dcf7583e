use std::io;
use std::os::fd::OwnedFd;

use anyhow::{Context, bail};
use rustix::io::fcntl_dupfd_cloexec;
use rustix::net::{RecvFlags, SendFlags, recv, send, sockopt};
use rustix::stdio::dup2_stdin;

use crate::launch_spec::{LaunchSpec, LauncherMessage, MAX_PACKET_BYTES, VERSION};

/// The launcher's end of the socket to its owner. It preserves packet boundaries.
#[derive(Debug)]
pub(crate) struct OwnerSocket(OwnedFd);

impl OwnerSocket {
    /// Takes the socket from standard input, and replaces standard input by `/dev/null` for the program.
    pub(crate) fn from_stdin() -> io::Result<Self> {
        let socket = fcntl_dupfd_cloexec(std::io::stdin(), 3)?;
        sockopt::socket_type(&socket)?;

        let null = std::fs::File::open("/dev/null")?;
        dup2_stdin(&null)?;
        Ok(Self(socket))
    }

    /// Receives the launch request of the owner.
    pub(crate) fn receive_spec(&self) -> anyhow::Result<LaunchSpec> {
        let mut packet = vec![0; MAX_PACKET_BYTES];
        let (_, bytes) = recv(&self.0, &mut packet[..], RecvFlags::empty())
            .context("cannot receive the launch request")?;

        // The version first: the other fields may differ in another version.
        let value: serde_json::Value =
            serde_json::from_slice(&packet[..bytes]).context("invalid launch request")?;
        let version = &value["version"];
        if *version != VERSION {
            bail!(
                "this launcher supports launch requests of version {VERSION}, not {version}; run `fumehood image build`"
            );
        }
        serde_json::from_value(value).context("invalid launch request")
    }

    /// Sends a message to the owner. Exits if the owner is gone.
    pub(crate) fn send(&self, message: &LauncherMessage) {
        let packet = serde_json::to_vec(message).unwrap_or_default();
        if send(&self.0, &packet, SendFlags::NOSIGNAL).is_err() {
            std::process::exit(1);
        }
    }

    /// Waits until the owner permits the program to start. Fails if the owner is gone.
    pub(crate) fn wait_for_permission(&self) -> io::Result<()> {
        let mut byte = [0];
        match recv(&self.0, &mut byte[..], RecvFlags::empty())? {
            (_, 1) => Ok(()),
            _ => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}
