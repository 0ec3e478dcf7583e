//! A guest without a VM: a TCP/IP stack at the other end of the wire.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use bytes::{Buf, BufMut, BytesMut};
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::{tcp, udp};
use smoltcp::wire::{EthernetAddress, HardwareAddress, IpCidr};
use tokio::net::UnixStream;

use crate::link::{Endpoint, LinkAddresses};

/// Deadline for any step on a busy machine.
const TIMEOUT: Duration = Duration::from_secs(20);

pub(crate) const LINK: LinkAddresses = LinkAddresses {
    guest: Endpoint {
        mac: [2, 0x66, 0x75, 0x6d, 0x65, 2],
        v4: Ipv4Addr::new(198, 18, 0, 2),
        v6: Ipv6Addr::new(0xfd66, 0x756d, 0x6568, 0, 0, 0, 0, 2),
    },
    gateway: Endpoint {
        mac: [2, 0x66, 0x75, 0x6d, 0x65, 1],
        v4: Ipv4Addr::new(198, 18, 0, 1),
        v6: Ipv6Addr::new(0xfd66, 0x756d, 0x6568, 0, 0, 0, 0, 1),
    },
    mtu: 1500,
};

/// A guest with its own TCP/IP stack.
pub(crate) struct Guest {
    wire: UnixStream,
    read: BytesMut,
    cable: GuestDevice,
    interface: Interface,
    sockets: SocketSet<'static>,
    next_port: u16,
    epoch: Instant,
}

#[derive(Default)]
struct GuestDevice {
    arrived: std::collections::VecDeque<BytesMut>,
    outbox: BytesMut,
}

impl Guest {
    /// Creates a guest; also returns the gateway's end of its wire.
    pub(crate) fn new() -> (Self, UnixStream) {
        let (wire, other) = UnixStream::pair().unwrap();
        let mut cable = GuestDevice::default();
        let mac = HardwareAddress::Ethernet(EthernetAddress(LINK.guest.mac));
        let mut config = Config::new(mac);
        config.random_seed = 7;
        let mut interface = Interface::new(config, &mut cable, smoltcp::time::Instant::ZERO);
        interface.update_ip_addrs(|addresses| {
            addresses
                .push(IpCidr::new(LINK.guest.v4.into(), 30))
                .unwrap();
            addresses
                .push(IpCidr::new(LINK.guest.v6.into(), 64))
                .unwrap();
        });

        let routes = interface.routes_mut();
        routes.add_default_ipv4_route(LINK.gateway.v4).unwrap();
        routes.add_default_ipv6_route(LINK.gateway.v6).unwrap();
        let guest = Self {
            wire,
            read: BytesMut::new(),
            cable,
            interface,
            sockets: SocketSet::new(Vec::new()),
            next_port: 40_000,
            epoch: Instant::now(),
        };

        (guest, other)
    }

    /// Connects the guest to another wire, as after a restore; returns the gateway's end of it.
    pub(crate) fn replug(&mut self) -> UnixStream {
        let (wire, other) = UnixStream::pair().unwrap();
        self.wire = wire;
        self.read.clear();
        self.cable = GuestDevice::default();
        other
    }

    /// Runs the guest until `look` returns a value.
    pub(crate) async fn until<T>(
        &mut self,
        what: &str,
        mut look: impl FnMut(&mut Self) -> Option<T>,
    ) -> T {
        let start = Instant::now();
        loop {
            self.turn();
            if let Some(found) = look(self) {
                self.turn();
                return found;
            }

            assert!(start.elapsed() < TIMEOUT, "timed out waiting for {what}");
            let _ = tokio::time::timeout(Duration::from_millis(2), self.wire.readable()).await;
        }
    }

    fn turn(&mut self) {
        loop {
            match self.wire.try_read_buf(&mut self.read) {
                Ok(0) => break,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => panic!("{error}"),
            }
        }

        while self.read.len() >= 4 {
            let length = u32::from_be_bytes(self.read[..4].try_into().unwrap()) as usize;
            if self.read.len() < 4 + length {
                break;
            }

            self.read.advance(4);
            let frame = self.read.split_to(length);
            self.cable.arrived.push_back(frame);
        }

        let now = smoltcp::time::Instant::from_micros(self.epoch.elapsed().as_micros() as i64);
        self.interface.poll(now, &mut self.cable, &mut self.sockets);
        while !self.cable.outbox.is_empty() {
            match self.wire.try_write(&self.cable.outbox) {
                Ok(written) => self.cable.outbox.advance(written),
                Err(_) => break,
            }
        }
    }

    /// Sends a frame without changes.
    pub(crate) fn send_raw(&mut self, frame: &[u8]) {
        self.cable.outbox.put_u32(frame.len() as u32);
        self.cable.outbox.put_slice(frame);
        self.turn();
    }

    /// Starts to open a connection.
    pub(crate) fn start_connect(&mut self, to: SocketAddr) -> SocketHandle {
        let buffer = || tcp::SocketBuffer::new(vec![0; 65_536]);
        let mut socket = tcp::Socket::new(buffer(), buffer());
        self.next_port += 1;
        let from = self.next_port;
        socket.connect(self.interface.context(), to, from).unwrap();
        let handle = self.sockets.add(socket);
        self.turn();
        handle
    }

    /// Listens on a port.
    pub(crate) fn listen(&mut self, port: u16) -> SocketHandle {
        let buffer = || tcp::SocketBuffer::new(vec![0; 65_536]);
        let mut socket = tcp::Socket::new(buffer(), buffer());
        socket.listen(port).unwrap();
        self.sockets.add(socket)
    }

    pub(crate) fn socket(&mut self, handle: SocketHandle) -> &mut tcp::Socket<'static> {
        self.sockets.get_mut(handle)
    }

    /// Opens a connection; returns `None` if it is refused.
    pub(crate) async fn connect(&mut self, to: SocketAddr) -> Option<SocketHandle> {
        let handle = self.start_connect(to);
        let open = self.until("an answer to a connection", |guest| {
            match guest.socket(handle).state() {
                tcp::State::SynSent | tcp::State::SynReceived => None,
                state => Some(state != tcp::State::Closed),
            }
        });

        open.await.then_some(handle)
    }

    /// Sends bytes, closes its side, and receives until the end; returns `None` if the connection was reset.
    pub(crate) async fn exchange(&mut self, handle: SocketHandle, bytes: &[u8]) -> Option<Vec<u8>> {
        let (mut rest, mut received) = (bytes.to_vec(), Vec::new());
        let whole = self.until("the end of a connection", |guest| {
            let socket = guest.socket(handle);
            if !rest.is_empty() && socket.can_send() {
                let sent = socket.send_slice(&rest).unwrap();
                rest.drain(..sent);
            }

            if rest.is_empty() && socket.may_send() {
                socket.close();
            }

            while socket.can_recv() {
                let more = socket.recv(|bytes| (bytes.len(), bytes.to_vec())).unwrap();
                received.extend(more);
            }

            match socket.state() {
                // The other side has either closed or reset the connection.
                tcp::State::Closed => {
                    let end = socket.recv(|_| (0, ()));
                    Some(end == Err(tcp::RecvError::Finished))
                }
                tcp::State::TimeWait => Some(true),
                _ => None,
            }
        });

        whole.await.then_some(received)
    }

    /// Sends a DNS message; returns the answer.
    pub(crate) async fn query_dns(&mut self, server: IpAddr, question: &[u8]) -> Vec<u8> {
        let buffer = || udp::PacketBuffer::new(vec![udp::PacketMetadata::EMPTY; 8], vec![0; 8192]);
        let mut socket = udp::Socket::new(buffer(), buffer());
        self.next_port += 1;
        socket.bind(self.next_port).unwrap();
        socket
            .send_slice(question, SocketAddr::new(server, 53))
            .unwrap();

        let handle = self.sockets.add(socket);

        self.until("an answer to a DNS query", |guest| {
            let socket = guest.sockets.get_mut::<udp::Socket<'_>>(handle);
            socket.recv().ok().map(|(bytes, _)| bytes.to_vec())
        })
        .await
    }

    /// Sends a datagram.
    pub(crate) fn send_datagram(&mut self, to: SocketAddr) {
        let buffer = || udp::PacketBuffer::new(vec![udp::PacketMetadata::EMPTY; 1], vec![0; 64]);
        let mut socket = udp::Socket::new(buffer(), buffer());
        self.next_port += 1;
        socket.bind(self.next_port).unwrap();
        socket.send_slice(b"datagram", to).unwrap();
        self.sockets.add(socket);
        self.turn();
    }
}

impl Device for GuestDevice {
    type RxToken<'a> = IncomingFrame;
    type TxToken<'a> = OutgoingFrame<'a>;

    fn receive(&mut self, _: smoltcp::time::Instant) -> Option<(IncomingFrame, OutgoingFrame<'_>)> {
        let frame = self.arrived.pop_front()?;
        Some((IncomingFrame(frame), OutgoingFrame(&mut self.outbox)))
    }

    fn transmit(&mut self, _: smoltcp::time::Instant) -> Option<OutgoingFrame<'_>> {
        Some(OutgoingFrame(&mut self.outbox))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = 1514;
        capabilities
    }
}

struct IncomingFrame(BytesMut);

impl RxToken for IncomingFrame {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

struct OutgoingFrame<'a>(&'a mut BytesMut);

impl TxToken for OutgoingFrame<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        self.0.put_u32(len as u32);
        let payload_start = self.0.len();
        self.0.put_bytes(0, len);
        f(&mut self.0[payload_start..])
    }
}
