//! Drives the stack: moves frames between QEMU and the stack, turn by turn.

use std::io;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use smoltcp::iface::{PollIngressSingleResult, SocketHandle};
use smoltcp::socket::{tcp, udp};
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::time::Instant;

use super::arp_ndp::{answer_arp, answer_solicitation, spoofed_address};
use super::classify::{FrameClass, RejectedPacket, classify};
use super::four_tuple::FourTuple;
use super::frame::{ETHERNET_BYTES, take_next};
use super::icmp_prohibited::send_prohibited;
use super::network_stack::{Arrival, GuestStream, Stack, State, new_tcp_socket};

/// Size of a read from QEMU, in bytes: a few of the longest frames.
const READ_BYTES: usize = 256 * 1024;

/// Interval of turns when the stack has nothing to do.
const IDLE_INTERVAL: Duration = Duration::from_secs(3600);

/// Delay before the next look at a connection that has timed out and whose reset did not fit into the outbox.
const ORPHAN_RETRY_DELAY: Duration = Duration::from_millis(10);

/// Moves frames between QEMU and the stack until QEMU closes its end.
///
/// # Errors
/// Fails if the socket fails, or if QEMU sends an invalid frame.
pub(crate) async fn drive(stack: Stack, wire: UnixStream) -> io::Result<()> {
    let mut read = BytesMut::with_capacity(READ_BYTES);
    let max_frame_bytes = stack.link().mtu + ETHERNET_BYTES;
    loop {
        let turn = stack.turn(&mut read, max_frame_bytes)?;
        let all_sent = stack.send(&wire)?;

        let interest = match (all_sent, turn.has_more) {
            (true, true) => {
                tokio::task::yield_now().await;
                continue;
            }
            (true, false) => Interest::READABLE,
            // Frames that could not be answered are not read.
            (false, true) => Interest::WRITABLE,
            (false, false) => Interest::READABLE | Interest::WRITABLE,
        };
        tokio::select! {
            // The guest's frames come before new work for it.
            biased;
            ready = wire.ready(interest) => {
                if ready?.is_readable() && !read_available(&wire, &mut read)? {
                    return Ok(());
                }
            }
            () = stack.0.changed.notified() => {}
            () = tokio::time::sleep(turn.next) => {}
        }
    }
}

/// Reads the bytes that are available; returns `false` if the other end is closed.
fn read_available(wire: &UnixStream, read: &mut BytesMut) -> io::Result<bool> {
    read.reserve(READ_BYTES);
    match wire.try_read_buf(read) {
        Ok(bytes) => Ok(bytes > 0),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(true),
        Err(error) => Err(error),
    }
}

/// The result of one turn of the stack.
pub(crate) struct TurnOutcome {
    /// The outbox is full: frames are unread, or there is more to send.
    pub(crate) has_more: bool,
    /// When the next turn is due if nothing happens before.
    pub(crate) next: Duration,
}

impl Stack {
    /// Processes complete frames and produces outgoing ones.
    pub(super) fn turn(
        &self,
        read: &mut BytesMut,
        max_frame_bytes: usize,
    ) -> io::Result<TurnOutcome> {
        let mut state = self.lock();

        // Ingress: each frame may produce an answer, so frames are only taken while the outbox has capacity.
        let mut has_more = true;
        while has_more && state.device.has_capacity() {
            match take_next(read, max_frame_bytes).map_err(io::Error::other)? {
                Some(frame) => self.handle_frame(&mut state, frame),
                None => has_more = false,
            }
        }
        state.collect_dns_queries();

        // Egress.
        let now = self.now();
        let State {
            interface,
            sockets,
            device,
            ..
        } = &mut *state;
        interface.poll_egress(now, device, sockets);
        let stack_delay = interface.poll_delay(now, sockets).map(Duration::from);
        let orphan_delay = state.reap_orphans();

        // With a full outbox there may be more to send once QEMU has read it; until then no timer matters.
        let is_full = !state.device.has_capacity();
        let next = [stack_delay, orphan_delay].into_iter().flatten().min();
        let next = next.filter(|_| !is_full);
        Ok(TurnOutcome {
            has_more: has_more || is_full,
            next: next.unwrap_or(IDLE_INTERVAL),
        })
    }

    fn handle_frame(&self, state: &mut State, mut frame: BytesMut) {
        let link = self.link();
        match classify(link, &frame) {
            FrameClass::Packet { opens } => {
                frame.advance(ETHERNET_BYTES);
                self.deliver(state, frame, opens);
            }
            FrameClass::Arp => {
                if let Some(address) = spoofed_address(link, &frame) {
                    state.report(RejectedPacket::Source(address.into()));
                }
                answer_arp(&mut state.device, link, &frame);
            }
            FrameClass::NeighborSolicitation => {
                answer_solicitation(&mut state.device, link, &frame);
            }
            FrameClass::Rejected(rejected) => {
                send_prohibited(&mut state.device, link, &frame);
                state.report(rejected);
            }
            FrameClass::Ignored => {}
        }
    }

    /// Passes a packet to the stack. A packet that opens a connection gets a socket that listens for only this one.
    fn deliver(&self, state: &mut State, packet: BytesMut, opens: Option<FourTuple>) {
        let is_new = opens.is_some_and(|tuple| !state.tuples.contains_key(&tuple));
        if is_new && state.arrivals.capacity() == 0 {
            // The queue is full: drop the packet, as any network may, instead of refusing. The guest sends it again.
            return;
        }

        let opened = opens.and_then(|tuple| state.listen(tuple));
        state.device.incoming = Some(packet);
        let State {
            interface,
            sockets,
            device,
            ..
        } = &mut *state;
        let taken = interface.poll_ingress_single(self.now(), device, sockets);
        if taken == PollIngressSingleResult::None {
            device.incoming = None;
        }

        let Some((handle, tuple)) = opened else {
            return;
        };
        let is_open = state
            .sockets
            .get::<tcp::Socket<'_>>(handle)
            .remote_endpoint()
            .is_some();
        let permit = if is_open {
            state.arrivals.try_reserve().ok()
        } else {
            None
        };
        match permit {
            Some(permit) => {
                let stream = GuestStream::new(self.clone(), handle, tuple);
                permit.send(Arrival::Connection(stream));
            }
            // The stack did not accept the packet: remove the socket.
            None => {
                state.sockets.get_mut::<tcp::Socket<'_>>(handle).abort();
                state.orphans.push((handle, Instant::now()));
            }
        }
    }

    /// Writes the outbox to QEMU; returns `false` if QEMU does not accept all of it now.
    fn send(&self, wire: &UnixStream) -> io::Result<bool> {
        let mut state = self.lock();
        while !state.device.outbox.is_empty() {
            match wire.try_write(&state.device.outbox) {
                Ok(written) => state.device.outbox.advance(written),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }
}

impl State {
    /// Creates a listening socket for a new connection; `None` if the connection exists, or the maximum is open.
    fn listen(&mut self, tuple: FourTuple) -> Option<(SocketHandle, FourTuple)> {
        if self.tuples.contains_key(&tuple) {
            return None;
        }
        if self.is_full() {
            self.report(RejectedPacket::Full(tuple.remote));
            return None;
        }

        self.abort_abandoned();
        let mut socket = new_tcp_socket();
        socket.pause_synack(true);
        socket.listen(tuple.remote).ok()?;
        let handle = self.sockets.add(socket);
        self.tuples.insert(tuple, handle);
        Some((handle, tuple))
    }

    /// Aborts connections that the guest reset before they were open. Their sockets listen again, and would accept the
    /// next connection to the same host.
    fn abort_abandoned(&mut self) {
        for handle in self.tuples.values() {
            let socket = self.sockets.get_mut::<tcp::Socket<'_>>(*handle);
            if socket.state() == tcp::State::Listen {
                socket.abort();
            }
        }
    }

    fn report(&self, rejected: RejectedPacket) {
        // In a flood of such packets not every one is reported.
        let _ = self.arrivals.try_send(Arrival::Rejected(rejected));
    }

    fn collect_dns_queries(&mut self) {
        let socket = self.sockets.get_mut::<udp::Socket<'_>>(self.dns_socket);
        while socket.can_recv() {
            let Ok(permit) = self.arrivals.try_reserve() else {
                break;
            };
            let Ok((message, metadata)) = socket.recv() else {
                break;
            };
            permit.send(Arrival::DnsQuery {
                from: metadata.endpoint.into(),
                message: message.to_vec(),
            });
        }
    }

    /// Removes orphaned connections that have ended, and aborts those that have timed out; returns the time until the
    /// next one times out.
    fn reap_orphans(&mut self) -> Option<Duration> {
        let now = Instant::now();
        let Self {
            sockets,
            orphans,
            tuples,
            ..
        } = self;

        let mut ended = Vec::new();
        orphans.retain(|(handle, deadline)| {
            let socket = sockets.get_mut::<tcp::Socket<'_>>(*handle);
            let is_closed = matches!(socket.state(), tcp::State::TimeWait | tcp::State::Closed);
            // An aborted socket stays until its reset is sent.
            let is_silent = socket.remote_endpoint().is_none();
            if is_closed && (is_silent || socket.state() == tcp::State::TimeWait) {
                ended.push(*handle);
                return false;
            }
            if now >= *deadline {
                socket.abort();
            }
            true
        });

        if !ended.is_empty() {
            tuples.retain(|_, handle| !ended.contains(handle));
        }
        for handle in ended {
            sockets.remove(handle);
        }

        let remaining = orphans
            .iter()
            .map(|(_, deadline)| deadline.saturating_duration_since(now));
        remaining.min().map(|left| left.max(ORPHAN_RETRY_DELAY))
    }
}
