use std::fs;
use std::io;
use std::net::TcpListener;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use fumehood_protocol::{ErrorType, WireError, encode_line};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};

use super::client_id::ClientId;
use super::connection::Connection;
use super::outbox::error_response;
use crate::settings::Settings;

/// How often to check whether a host has connected again. A host rarely disconnects.
const POLL_INTERVAL: Duration = Duration::from_millis(50);
/// The first checks come faster: at boot the host connects within moments.
const FIRST_POLL_INTERVAL: Duration = Duration::from_millis(1);

/// Where clients come from.
#[derive(Debug)]
pub(crate) enum Listener {
    Tcp(TcpListener),
    /// Serves one client at a time.
    VirtioPort(VirtioPort),
}

/// A virtio-serial port.
#[derive(Debug)]
pub(crate) struct VirtioPort {
    /// The port, while it has no client.
    idle: Option<OwnedFd>,
    next_poll: Instant,
    interval: Duration,
}

impl VirtioPort {
    /// Opens the port with this name. Returns `None` if it does not exist (yet).
    ///
    /// # Errors
    /// Returns the kernel's error if the port exists and cannot be opened.
    pub(crate) fn open(name: &str, now: Instant) -> io::Result<Option<Self>> {
        let Some(device) = find_device(name) else {
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
            next_poll: now,
            interval: FIRST_POLL_INTERVAL,
        }))
    }

    /// Returns the port if a host is connected to it.
    fn poll_host(&mut self, now: Instant) -> Option<OwnedFd> {
        let descriptor = self.idle.as_ref().filter(|_| now >= self.next_poll)?;
        let at_once = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };

        let mut polled = [PollFd::from_borrowed_fd(descriptor.as_fd(), PollFlags::OUT)];
        let result = poll(&mut polled, Some(&at_once));
        if result.is_err() || polled[0].revents().contains(PollFlags::HUP) {
            self.next_poll = now + self.interval;
            self.interval = (self.interval * 2).min(POLL_INTERVAL);
            return None;
        }

        self.idle.take()
    }
}

/// Finds `/dev/vportNpM` for the port with this name. The guest has no udev, so the name is read from sysfs.
fn find_device(name: &str) -> Option<PathBuf> {
    let ports = fs::read_dir("/sys/class/virtio-ports").ok()?;
    let mut ports = ports.flatten();
    let found = ports.find(|port| {
        fs::read_to_string(port.path().join("name")).is_ok_and(|found| found.trim_end() == name)
    })?;
    Some(PathBuf::from("/dev").join(found.file_name()))
}

impl Listener {
    /// The descriptor to poll, if there is one.
    pub(crate) fn poll_fd(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Tcp(listener) => Some(listener.as_fd()),
            Self::VirtioPort(_) => None,
        }
    }

    /// When to check the port again, if it cannot be polled.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        match self {
            Self::Tcp(_) => None,
            Self::VirtioPort(port) => port.idle.as_ref().map(|_| port.next_poll),
        }
    }

    /// Accepts a client, if one has connected. `count` clients are connected already.
    pub(crate) fn accept(
        &mut self,
        id: ClientId,
        count: usize,
        settings: &Settings,
        now: Instant,
    ) -> Option<Connection> {
        let descriptor = match self {
            Self::Tcp(listener) => accept_tcp(listener, count, settings)?,
            Self::VirtioPort(port) => port.poll_host(now)?,
        };
        Some(Connection::new(id, descriptor, settings, now))
    }

    /// Takes back the connection of a client that has disconnected.
    pub(crate) fn release(&mut self, connection: Connection, now: Instant) {
        if let Self::VirtioPort(port) = self {
            port.idle = Some(connection.into_descriptor());
            port.interval = POLL_INTERVAL;
            port.next_poll = now + port.interval;
        }
    }
}

fn accept_tcp(listener: &TcpListener, count: usize, settings: &Settings) -> Option<OwnedFd> {
    // An error here is about this client, or about a temporary lack of descriptors.
    let (stream, _) = listener.accept().ok()?;
    stream.set_nonblocking(true).ok()?;

    let max = settings.limits.connections;

    if (count as u64) < max {
        // Without it answers still arrive, only later.
        let _ = stream.set_nodelay(true);
        return Some(stream.into());
    }

    let message =
        format!("{count} connections are open, of at most {max}; close one, or try again later");
    let error = WireError::new(ErrorType::BusyError, message);
    let line = encode_line(&error_response(None, error));
    // The buffer of a new socket always has space for a line.
    let _ = rustix::io::write(&stream, &line);

    None
}
