use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::socket::{tcp, udp};
use smoltcp::wire::{HardwareAddress, IpCidr};
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

use super::classify::{DNS_PORT, Refused};
use super::device::Cable;
use super::four_tuple::Tuple;
use super::stale_connection;
use crate::link::LinkAddresses;

/// Bytes that a connection may have on their way, in each direction. Pages that are not used cost nothing.
///
/// As many as the window of a SYN says with the window scale that this gives: smoltcp 0.14 takes that window for a
/// scaled one until the first acknowledgment, and with a buffer that is smaller a guest could make it panic.
const BUFFER_BYTES: usize = 0xffff << 2;

/// Questions to the name server that wait for being read, and answers for being sent.
const DATAGRAMS: usize = 64;

/// The longest question or answer over UDP, in bytes: what EDNS recommends, rounded up.
pub(crate) const DATAGRAM_BYTES: usize = 4096;

/// What a guest did that somebody has to decide on.
#[derive(Debug)]
pub(crate) enum Arrival {
    /// It opens a connection, which waits for an answer.
    Connection(GuestStream),
    /// It asked the name server.
    Question {
        /// Who asked.
        from: SocketAddr,
        /// The message.
        message: Vec<u8>,
    },
    /// It sent what is never let through.
    Refused(Refused),
}

/// A connection of the guest's. Dropped without [`shutdown`](tokio::io::AsyncWriteExt::shutdown), it is reset.
#[derive(Debug)]
pub(crate) struct GuestStream {
    pub(super) stack: Stack,
    pub(super) handle: SocketHandle,
    pub(super) tuple: Tuple,
    pub(super) finished: bool,
}

impl GuestStream {
    pub(super) fn new(stack: Stack, handle: SocketHandle, tuple: Tuple) -> Self {
        Self {
            stack,
            handle,
            tuple,
            finished: false,
        }
    }
}

/// The stack; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Stack(pub(super) Arc<Shared>);

#[derive(Debug)]
pub(super) struct Shared {
    link: LinkAddresses,
    state: Mutex<State>,
    /// Something was put into the stack that is to go out.
    pub(super) changed: Notify,
    /// Since when its clock runs.
    epoch: Instant,
}

pub(super) struct State {
    pub(super) interface: Interface,
    pub(super) sockets: SocketSet<'static>,
    pub(super) cable: Cable,
    pub(super) tuples: HashMap<Tuple, SocketHandle>,
    /// Connections that nobody holds any more, and until when they may take to come to their end.
    pub(super) orphans: Vec<(SocketHandle, Instant)>,
    pub(super) questions: SocketHandle,
    /// The next port that a connection to the guest comes from.
    next_port: u16,
    pub(super) most_connections: usize,
    pub(super) arrivals: mpsc::Sender<Arrival>,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State")
            .field("connections", &self.tuples.len())
            .finish_non_exhaustive()
    }
}

/// The least port that connections to the guest come from.
const FIRST_PORT: u16 = 49_152;

/// Where a stack begins: a guest that was forked may still believe in connections from its parent's ports.
fn first_port(seed: u64) -> u16 {
    let offset = seed % u64::from(u16::MAX - FIRST_PORT);
    FIRST_PORT + u16::try_from(offset).unwrap_or(0)
}

/// Why a connection to the guest cannot be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum OpenError {
    #[error("as many connections as are allowed are open")]
    Full,
    #[error("the guest refuses the connection: nothing listens there")]
    Refused,
}

impl Stack {
    /// A stack on this link, and what its guest does, to be decided on. At most `most_connections` are open
    /// at a time.
    pub(crate) fn new(
        link: LinkAddresses,
        seed: u64,
        most_connections: usize,
    ) -> (Self, mpsc::Receiver<Arrival>) {
        /// Arrivals that wait; what comes when they are full is dropped, as a wire does.
        const ARRIVALS: usize = 256;
        let (arrivals, receiver) = mpsc::channel(ARRIVALS);
        let mut cable = Cable::new(link);
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = seed;
        let mut interface = Interface::new(config, &mut cable, smoltcp::time::Instant::ZERO);
        interface.update_ip_addrs(|addresses| {
            let (v4, v6) = (link.gateway.v4.into(), link.gateway.v6.into());
            // Capacity for two is the least that the stack is built with.
            let _ = addresses.push(IpCidr::new(v4, 24));
            let _ = addresses.push(IpCidr::new(v6, 64));
        });
        // Everything is for this end of the cable, whatever address it bears.
        let _ = interface
            .routes_mut()
            .add_default_ipv4_route(link.gateway.v4);
        let _ = interface
            .routes_mut()
            .add_default_ipv6_route(link.gateway.v6);
        interface.set_any_ip(true);
        let mut sockets = SocketSet::new(Vec::new());
        let questions = sockets.add(name_server());
        let state = State {
            interface,
            sockets,
            cable,
            tuples: HashMap::new(),
            orphans: Vec::new(),
            questions,
            next_port: first_port(seed),
            most_connections,
            arrivals,
        };
        let shared = Shared {
            link,
            state: Mutex::new(state),
            changed: Notify::new(),
            epoch: Instant::now(),
        };
        (Self(Arc::new(shared)), receiver)
    }

    /// The link that it is on.
    pub(crate) fn link(&self) -> &LinkAddresses {
        &self.0.link
    }

    /// Opens a connection to a port of the guest.
    ///
    /// # Errors
    /// [`OpenError`]. There is no deadline here; the caller has one.
    pub(crate) async fn connect(&self, guest: SocketAddr) -> Result<GuestStream, OpenError> {
        let stream = self.begin_connection(guest)?;
        match stream.established().await {
            true => Ok(stream),
            false => Err(OpenError::Refused),
        }
    }

    fn begin_connection(&self, guest: SocketAddr) -> Result<GuestStream, OpenError> {
        let mut state = self.lock();
        if state.is_full() {
            return Err(OpenError::Full);
        }
        let from = match guest {
            SocketAddr::V4(_) => self.0.link.gateway.v4.into(),
            SocketAddr::V6(_) => self.0.link.gateway.v6.into(),
        };
        let tuple = state.free_tuple(guest, from).ok_or(OpenError::Full)?;
        let mut socket = connection();
        let State {
            interface, sockets, ..
        } = &mut *state;
        let begun = socket.connect(interface.context(), guest, tuple.remote);
        begun.map_err(|_| OpenError::Refused)?;
        let handle = sockets.add(socket);
        state.tuples.insert(tuple, handle);
        drop(state);
        self.0.changed.notify_one();
        Ok(GuestStream::new(self.clone(), handle, tuple))
    }

    /// Sends an answer of the name server's.
    pub(crate) fn answer(&self, to: SocketAddr, message: &[u8]) {
        let mut state = self.lock();
        let questions = state.questions;
        let socket = state.sockets.get_mut::<udp::Socket<'_>>(questions);
        // Full: lost, as datagrams are; the guest asks again.
        let _ = socket.send_slice(message, to);
        drop(state);
        self.0.changed.notify_one();
    }

    /// The connections that are open now.
    pub(crate) fn tuples(&self) -> Vec<Tuple> {
        self.lock().tuples.keys().copied().collect()
    }

    /// Ends connections that the guest believes to be open and that nobody here knows: those that it had
    /// when its state was saved.
    pub(crate) fn end_stale(&self, tuples: &[Tuple]) {
        let mut state = self.lock();
        for tuple in tuples {
            stale_connection::provoke(&mut state.cable, *tuple);
        }
        drop(state);
        self.0.changed.notify_one();
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn now(&self) -> smoltcp::time::Instant {
        let micros = self.0.epoch.elapsed().as_micros();
        smoltcp::time::Instant::from_micros(i64::try_from(micros).unwrap_or(i64::MAX))
    }
}

impl State {
    pub(super) fn is_full(&self) -> bool {
        self.tuples.len() >= self.most_connections
    }

    fn free_tuple(&mut self, guest: SocketAddr, from: std::net::IpAddr) -> Option<Tuple> {
        for _ in FIRST_PORT..=u16::MAX {
            let remote = SocketAddr::new(from, self.next_port);
            self.next_port = self.next_port.checked_add(1).unwrap_or(FIRST_PORT);
            let tuple = Tuple { guest, remote };
            if !self.tuples.contains_key(&tuple) {
                return Some(tuple);
            }
        }
        None
    }
}

/// A connection that is open to either side.
pub(super) fn connection() -> tcp::Socket<'static> {
    let buffer = || tcp::SocketBuffer::new(vec![0; BUFFER_BYTES]);
    let mut socket = tcp::Socket::new(buffer(), buffer());
    // The wire is a piece of memory: there is nothing to wait for.
    socket.set_nagle_enabled(false);
    socket.set_ack_delay(None);
    socket
}

fn name_server() -> udp::Socket<'static> {
    let buffer = || {
        let metadata = vec![udp::PacketMetadata::EMPTY; DATAGRAMS];
        udp::PacketBuffer::new(metadata, vec![0; DATAGRAMS * DATAGRAM_BYTES])
    };
    let mut socket = udp::Socket::new(buffer(), buffer());
    // It is bound once, to a port that is none of the forbidden ones.
    let _ = socket.bind(DNS_PORT);
    socket
}
