use std::fs;
use std::io;
use std::net::TcpListener;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use fumehood_protocol::{ErrorMessage, ErrorType, Response, WireError, encode_line};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};

use crate::connection::Connection;
use crate::operations::ClientId;
use crate::settings::{Settings, VERSION};

/// How often to look whether a host is on the line again. A host that goes away is rare.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// The first looks come faster: at boot the host is there within moments.
const LOOK_FIRST: Duration = Duration::from_millis(1);

/// Where clients come from.
#[derive(Debug)]
pub(crate) enum Door {
    /// A TCP socket.
    Tcp(TcpListener),
    /// A virtio-serial port: one client at a time.
    Port(Port),
}

/// A virtio-serial port on which nobody is served now, or somebody is (`None`).
#[derive(Debug)]
pub(crate) struct Port {
    idle: Option<OwnedFd>,
    next_look: Instant,
    pause: Duration,
}

impl Port {
    /// Opens the port of this name, or says that it is not there (yet).
    ///
    /// # Errors
    /// It is there and cannot be opened.
    pub(crate) fn open(name: &str, now: Instant) -> io::Result<Option<Self>> {
        let Some(device) = find(name) else {
            return Ok(None);
        };
        let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
        let descriptor = match rustix::fs::open(device, flags, Mode::empty()) {
            Ok(descriptor) => descriptor,
            Err(rustix::io::Errno::NOENT) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        Ok(Some(Self {
            idle: Some(descriptor),
            next_look: now,
            pause: LOOK_FIRST,
        }))
    }

    /// The host, if it is on the line.
    fn look(&mut self, now: Instant) -> Option<OwnedFd> {
        let descriptor = self.idle.as_ref().filter(|_| now >= self.next_look)?;
        let at_once = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let mut look = [PollFd::from_borrowed_fd(descriptor.as_fd(), PollFlags::OUT)];
        let looked = poll(&mut look, Some(&at_once));
        if looked.is_err() || look[0].revents().contains(PollFlags::HUP) {
            self.next_look = now + self.pause;
            self.pause = (self.pause * 2).min(LOOK_EVERY);
            return None;
        }
        self.idle.take()
    }
}

/// `/dev/vportNpM` of the port of this name. There is no udev: the name stands in sysfs.
fn find(name: &str) -> Option<PathBuf> {
    let ports = fs::read_dir("/sys/class/virtio-ports").ok()?;
    let mut ports = ports.flatten();
    let found = ports.find(|port| {
        fs::read_to_string(port.path().join("name")).is_ok_and(|found| found.trim_end() == name)
    })?;
    Some(PathBuf::from("/dev").join(found.file_name()))
}

impl Door {
    /// What to wait for.
    pub(crate) fn awaited(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Tcp(listener) => Some(listener.as_fd()),
            Self::Port(_) => None,
        }
    }

    /// When to look again.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        match self {
            Self::Tcp(_) => None,
            Self::Port(port) => port.idle.as_ref().map(|_| port.next_look),
        }
    }

    /// Lets in who stands before it.
    pub(crate) fn admit(
        &mut self,
        id: ClientId,
        inside: usize,
        settings: &Settings,
        now: Instant,
    ) -> Option<Connection> {
        let descriptor = match self {
            Self::Tcp(listener) => accept(listener, inside, settings)?,
            Self::Port(port) => port.look(now)?,
        };
        Some(Connection::new(id, descriptor, settings, now))
    }

    /// A client has gone.
    pub(crate) fn left(&mut self, connection: Connection, now: Instant) {
        if let Self::Port(port) = self {
            port.idle = Some(connection.into_descriptor());
            port.pause = LOOK_EVERY;
            port.next_look = now + port.pause;
        }
    }
}

fn accept(listener: &TcpListener, inside: usize, settings: &Settings) -> Option<OwnedFd> {
    // What fails here is the client's connection, or this moment's lack of descriptors.
    let (stream, _) = listener.accept().ok()?;
    stream.set_nonblocking(true).ok()?;
    let most = settings.limits.connections;
    if (inside as u64) < most {
        // Without it answers would still arrive, only later.
        let _ = stream.set_nodelay(true);
        return Some(stream.into());
    }
    let message = format!(
        "{inside} connections are open; at most {most} may be; close one, or try again later"
    );
    let error = WireError::new(ErrorType::BusyError, message);
    let line = encode_line(&Response::Error(ErrorMessage::new(None, error, VERSION)));
    // A fresh socket takes a line; one that does not has no reader to tell.
    let _ = rustix::io::write(&stream, &line);
    None
}
