use std::io;
use std::os::fd::OwnedFd;

use rustix::io::fcntl_dupfd_cloexec;
use rustix::net::{RecvFlags, SendFlags, recv, send, sockopt};
use rustix::stdio::dup2_stdin;

use crate::order::{LaunchSpec, LauncherMessage, PACKET_BYTES, VERSION};

/// The launcher's end of the line to its owner: a socket that keeps packets apart.
#[derive(Debug)]
pub(crate) struct Line(OwnedFd);

impl Line {
    /// The line comes as standard input; what becomes the program finds nothing there.
    pub(crate) fn of_standard_input() -> io::Result<Self> {
        let line = fcntl_dupfd_cloexec(std::io::stdin(), 3)?;
        sockopt::socket_type(&line)?;
        let nothing = std::fs::File::open("/dev/null")?;
        dup2_stdin(&nothing)?;
        Ok(Self(line))
    }

    /// The owner's order.
    pub(crate) fn order(&self) -> Result<LaunchSpec, String> {
        let mut packet = vec![0; PACKET_BYTES];
        let (_, bytes) = recv(&self.0, &mut packet[..], RecvFlags::empty())
            .map_err(|e| format!("no order came: {e}"))?;
        let value: serde_json::Value = serde_json::from_slice(&packet[..bytes])
            .map_err(|e| format!("the order is none: {e}"))?;
        if value["version"] != VERSION {
            let theirs = &value["version"];
            return Err(format!(
                "this launcher takes orders of version {VERSION}, and not {theirs}; run `fumehood image build`"
            ));
        }
        serde_json::from_value(value).map_err(|e| format!("the order is none: {e}"))
    }

    /// Tells the owner. An owner that is gone ends this process.
    pub(crate) fn tell(&self, word: &LauncherMessage) {
        let packet = serde_json::to_vec(word).unwrap_or_default();
        if send(&self.0, &packet, SendFlags::NOSIGNAL).is_err() {
            std::process::exit(1);
        }
    }

    /// Waits for the owner's leave to go on. An owner that is gone gives none.
    pub(crate) fn leave(&self) -> io::Result<()> {
        let mut byte = [0];
        match recv(&self.0, &mut byte[..], RecvFlags::empty())? {
            (_, 1) => Ok(()),
            _ => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}
