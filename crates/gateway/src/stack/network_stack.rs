//! The stack: its state, its handles, and connections to the guest.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::socket::{tcp, udp};
use smoltcp::wire::{HardwareAddress, IpCidr};
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

use super::classify::{DNS_PORT, RejectedPacket};
use super::device::GuestDevice;
use super::four_tuple::FourTuple;
use super::stale_connection::reset_stale;
use crate::link::LinkAddresses;

/// Size of a connection's buffer in each direction, in bytes. Pages that are not used cost nothing.
///
/// It must equal the largest window of a SYN, scaled by the window scale for this size: until the first acknowledgment,
/// smoltcp 0.14 scales the window of a SYN, and with a smaller buffer a guest could make it panic.
const BUFFER_BYTES: usize = 0xffff << 2;

/// Maximum number of queued DNS queries, and of queued answers.
const MAX_DATAGRAMS: usize = 64;

/// Maximum length of a DNS message over UDP, in bytes: what EDNS recommends, rounded up.
const MAX_DATAGRAM_BYTES: usize = 4096;

/// The first port that connections to the guest come from.
const FIRST_PORT: u16 = 49_152;

/// Maximum number of queued arrivals. Further ones are dropped, as on any network.
const MAX_ARRIVALS: usize = 256;

/// Something that the guest sent and that the stack does not handle itself.
#[derive(Debug)]
pub(crate) enum Arrival {
    /// The guest opens a connection, which waits until it is accepted or dropped.
    Connection(GuestStream),
    /// A query for the name server.
    DnsQuery {
        /// Where the query came from.
        from: SocketAddr,
        /// The DNS message.
        message: Vec<u8>,
    },
    /// A packet that is never forwarded.
    Rejected(RejectedPacket),
}

/// A connection of the guest. It is reset if it is dropped without
/// [`shutdown`](tokio::io::AsyncWriteExt::shutdown).
#[derive(Debug)]
pub(crate) struct GuestStream {
    pub(super) stack: Stack,
    pub(super) handle: SocketHandle,
    pub(super) tuple: FourTuple,
    pub(super) is_shut_down: bool,
}

impl GuestStream {
    pub(super) fn new(stack: Stack, handle: SocketHandle, tuple: FourTuple) -> Self {
        Self {
            stack,
            handle,
            tuple,
            is_shut_down: false,
        }
    }
}

/// A handle to the stack. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Stack(pub(super) Arc<Shared>);

#[derive(Debug)]
pub(super) struct Shared {
    link: LinkAddresses,
    state: Mutex<State>,
    /// Notified when there is something to send.
    pub(super) changed: Notify,
    /// The zero of the stack's clock.
    epoch: Instant,
}

/// The state of the stack. One lock guards it.
pub(super) struct State {
    pub(super) interface: Interface,
    pub(super) sockets: SocketSet<'static>,
    pub(super) device: GuestDevice,
    pub(super) tuples: HashMap<FourTuple, SocketHandle>,
    /// Connections whose [`GuestStream`] is dropped, and until when they may take to end.
    pub(super) orphans: Vec<(SocketHandle, Instant)>,
    pub(super) dns_socket: SocketHandle,
    /// The next port that a connection to the guest comes from.
    next_port: u16,
    pub(super) max_connections: usize,
    pub(super) arrivals: mpsc::Sender<Arrival>,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State")
            .field("connections", &self.tuples.len())
            .finish_non_exhaustive()
    }
}

/// Returns a start port that depends on the seed. A forked guest may still have connections from its parent's ports.
fn first_port(seed: u64) -> u16 {
    let offset = seed % u64::from(u16::MAX - FIRST_PORT);
    FIRST_PORT + u16::try_from(offset).unwrap_or(0)
}

/// Why a connection to the guest cannot be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum OpenError {
    #[error("the maximum number of connections is open")]
    Full,
    #[error("the guest refused the connection: no program listens on the port")]
    Refused,
}

impl Stack {
    /// Creates a stack on this link, and the receiver of its arrivals. At most `max_connections` are open at a time.
    pub(crate) fn new(
        link: LinkAddresses,
        seed: u64,
        max_connections: usize,
    ) -> (Self, mpsc::Receiver<Arrival>) {
        let (arrivals, receiver) = mpsc::channel(MAX_ARRIVALS);
        let mut device = GuestDevice::new(link);
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = seed;

        let mut interface = Interface::new(config, &mut device, smoltcp::time::Instant::ZERO);
        interface.update_ip_addrs(|addresses| {
            let (v4, v6) = (link.gateway.v4.into(), link.gateway.v6.into());
            // These cannot fail: smoltcp is built with capacity for at least two addresses.
            let _ = addresses.push(IpCidr::new(v4, 24));
            let _ = addresses.push(IpCidr::new(v6, 64));
        });
        // Packets for any address are for this end of the link.
        let _ = interface
            .routes_mut()
            .add_default_ipv4_route(link.gateway.v4);
        let _ = interface
            .routes_mut()
            .add_default_ipv6_route(link.gateway.v6);
        interface.set_any_ip(true);

        let mut sockets = SocketSet::new(Vec::new());
        let dns_socket = sockets.add(new_dns_socket());
        let state = State {
            interface,
            sockets,
            device,
            tuples: HashMap::new(),
            orphans: Vec::new(),
            dns_socket,
            next_port: first_port(seed),
            max_connections,
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

    /// Returns the addresses on the link.
    pub(crate) fn link(&self) -> &LinkAddresses {
        &self.0.link
    }

    /// Opens a connection to a port of the guest. There is no deadline here; the caller must set one.
    ///
    /// # Errors
    /// Returns [`OpenError`] if no connection is free, or the guest refuses.
    pub(crate) async fn connect(&self, guest: SocketAddr) -> Result<GuestStream, OpenError> {
        let stream = self.start_connect(guest)?;
        if stream.established().await {
            Ok(stream)
        } else {
            Err(OpenError::Refused)
        }
    }

    fn start_connect(&self, guest: SocketAddr) -> Result<GuestStream, OpenError> {
        let mut state = self.lock();
        if state.is_full() {
            return Err(OpenError::Full);
        }
        let from = match guest {
            SocketAddr::V4(_) => self.0.link.gateway.v4.into(),
            SocketAddr::V6(_) => self.0.link.gateway.v6.into(),
        };
        let tuple = state.free_tuple(guest, from).ok_or(OpenError::Full)?;

        let mut socket = new_tcp_socket();
        let State {
            interface, sockets, ..
        } = &mut *state;
        let started = socket.connect(interface.context(), guest, tuple.remote);
        started.map_err(|_| OpenError::Refused)?;
        let handle = sockets.add(socket);
        state.tuples.insert(tuple, handle);
        drop(state);

        self.0.changed.notify_one();
        Ok(GuestStream::new(self.clone(), handle, tuple))
    }

    /// Sends an answer of the name server.
    pub(crate) fn send_dns_answer(&self, to: SocketAddr, message: &[u8]) {
        let mut state = self.lock();
        let dns_socket = state.dns_socket;
        let socket = state.sockets.get_mut::<udp::Socket<'_>>(dns_socket);
        // If the queue is full the answer is lost, as a datagram may be, and the guest repeats its query.
        let _ = socket.send_slice(message, to);
        drop(state);
        self.0.changed.notify_one();
    }

    /// Returns the connections that are open now.
    pub(crate) fn tuples(&self) -> Vec<FourTuple> {
        self.lock().tuples.keys().copied().collect()
    }

    /// Resets connections that the guest had when its state was saved, and that this stack does not know.
    pub(crate) fn reset_stale_connections(&self, tuples: &[FourTuple]) {
        let mut state = self.lock();
        for tuple in tuples {
            reset_stale(&mut state.device, *tuple);
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
        self.tuples.len() >= self.max_connections
    }

    fn free_tuple(&mut self, guest: SocketAddr, from: IpAddr) -> Option<FourTuple> {
        for _ in FIRST_PORT..=u16::MAX {
            let remote = SocketAddr::new(from, self.next_port);
            self.next_port = self.next_port.checked_add(1).unwrap_or(FIRST_PORT);
            let tuple = FourTuple { guest, remote };
            if !self.tuples.contains_key(&tuple) {
                return Some(tuple);
            }
        }
        None
    }
}

/// Creates the socket of a connection in either direction.
pub(super) fn new_tcp_socket() -> tcp::Socket<'static> {
    let buffer = || tcp::SocketBuffer::new(vec![0; BUFFER_BYTES]);
    let mut socket = tcp::Socket::new(buffer(), buffer());
    // The link is a socket in memory: small segments need not be collected.
    socket.set_nagle_enabled(false);
    socket.set_ack_delay(None);
    socket
}

fn new_dns_socket() -> udp::Socket<'static> {
    let buffer = || {
        let metadata = vec![udp::PacketMetadata::EMPTY; MAX_DATAGRAMS];
        udp::PacketBuffer::new(metadata, vec![0; MAX_DATAGRAMS * MAX_DATAGRAM_BYTES])
    };
    let mut socket = udp::Socket::new(buffer(), buffer());
    // This cannot fail: the socket is new and the port is not zero.
    let _ = socket.bind(DNS_PORT);
    socket
}
