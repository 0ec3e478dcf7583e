use std::io;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use smoltcp::iface::PollIngressSingleResult;
use smoltcp::socket::{tcp, udp};
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::time::Instant;

use super::classify::{Class, Refused, classify};
use super::four_tuple::Tuple;
use super::frame::{self, ETHERNET_BYTES};
use super::network_stack::{Arrival, GuestStream, Stack, State, connection};
use super::{arp_ndp, icmp_prohibited};

/// What is read from QEMU at a time, in bytes: a few of the longest frames.
const READ_BYTES: usize = 256 * 1024;

/// A stack with nothing to do looks after itself this often.
const IDLE: Duration = Duration::from_secs(3600);

/// How soon it looks again at a connection whose time is over, and whose last word had no room.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// Moves frames between QEMU and the stack until QEMU closes its end, or sends what is no frame.
///
/// # Errors
/// Why it had to stop.
pub(crate) async fn drive(stack: Stack, wire: UnixStream) -> io::Result<()> {
    let mut read = BytesMut::with_capacity(READ_BYTES);
    let most = stack.link().mtu + ETHERNET_BYTES;
    loop {
        let turn = stack.turn(&mut read, most)?;
        let sent = stack.send(&wire)?;
        let wants = match (sent, turn.more) {
            (true, true) => {
                tokio::task::yield_now().await;
                continue;
            }
            (true, false) => Interest::READABLE,
            // What cannot be answered is not read.
            (false, true) => Interest::WRITABLE,
            (false, false) => Interest::READABLE | Interest::WRITABLE,
        };
        tokio::select! {
            // What the guest sent is taken before anything new is begun for it.
            biased;
            ready = wire.ready(wants) => {
                if ready?.is_readable() && !fill(&wire, &mut read)? {
                    return Ok(());
                }
            }
            () = stack.0.changed.notified() => {}
            () = tokio::time::sleep(turn.next) => {}
        }
    }
}

/// Reads what is there; `false`: the other end is closed.
fn fill(wire: &UnixStream, read: &mut BytesMut) -> io::Result<bool> {
    read.reserve(READ_BYTES);
    match wire.try_read_buf(read) {
        Ok(bytes) => Ok(bytes > 0),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(true),
        Err(error) => Err(error),
    }
}

/// What one turn of the stack has left.
pub(crate) struct Turn {
    /// There is no room: frames were not looked at, or there is more to send.
    pub(crate) more: bool,
    /// When the stack has to look again, if nothing happens before.
    pub(crate) next: Duration,
}

impl Stack {
    /// Takes in whole frames, and makes what is to go out.
    pub(super) fn turn(&self, read: &mut BytesMut, most: usize) -> io::Result<Turn> {
        let mut state = self.lock();
        let mut more = true;
        while more && state.cable.has_room() {
            match frame::next(read, most).map_err(io::Error::other)? {
                Some(frame) => self.take(&mut state, frame),
                None => more = false,
            }
        }
        state.collect_questions();
        let now = self.now();
        let State {
            interface,
            sockets,
            cable,
            ..
        } = &mut *state;
        interface.poll_egress(now, cable, sockets);
        let delay = interface.poll_delay(now, sockets).map(Duration::from);
        let orphans = state.bury_orphans();
        let next = [delay, orphans].into_iter().flatten().min();
        // Where there is no room, there may be more to make as soon as the wire has taken what is there; until then
        // nothing needs to be looked at.
        let is_full = !state.cable.has_room();
        let next = next.filter(|_| !is_full);
        Ok(Turn {
            more: more || is_full,
            next: next.unwrap_or(IDLE),
        })
    }

    fn take(&self, state: &mut State, mut frame: BytesMut) {
        let link = self.link();
        match classify(link, &frame) {
            Class::Packet { opens } => {
                frame.advance(ETHERNET_BYTES);
                self.deliver(state, frame, opens);
            }
            Class::Arp => {
                if let Some(other) = arp_ndp::claimed(link, &frame) {
                    state.tell(Refused::Source(other.into()));
                }
                arp_ndp::answer_arp(&mut state.cable, link, &frame);
            }
            Class::Solicitation => {
                arp_ndp::answer_solicitation(&mut state.cable, link, &frame);
            }
            Class::Refused(refused) => {
                icmp_prohibited::prohibit(&mut state.cable, link, &frame);
                state.tell(refused);
            }
            Class::Chatter => {}
        }
    }

    /// Gives a packet to the stack; for one that opens a connection there is somebody who listens, once.
    fn deliver(&self, state: &mut State, packet: BytesMut, opens: Option<Tuple>) {
        let is_new = opens.is_some_and(|tuple| !state.tuples.contains_key(&tuple));
        if is_new && state.arrivals.capacity() == 0 {
            // Nobody can be told of it now: lost, as on any wire, and not refused; the guest asks again.
            return;
        }
        let opened = opens.and_then(|tuple| state.listen(tuple));
        state.cable.arrived = Some(packet);
        let State {
            interface,
            sockets,
            cable,
            ..
        } = &mut *state;
        let taken = interface.poll_ingress_single(self.now(), cable, sockets);
        if taken == PollIngressSingleResult::None {
            cable.arrived = None;
        }
        let Some((handle, tuple)) = opened else {
            return;
        };
        let is_open = state
            .sockets
            .get::<tcp::Socket<'_>>(handle)
            .remote_endpoint()
            .is_some();
        let told = match is_open {
            true => state.arrivals.try_reserve().ok(),
            false => None,
        };
        match told {
            Some(permit) => {
                let stream = GuestStream::new(self.clone(), handle, tuple);
                permit.send(Arrival::Connection(stream));
            }
            None => {
                state.sockets.get_mut::<tcp::Socket<'_>>(handle).abort();
                state.orphans.push((handle, Instant::now()));
            }
        }
    }

    /// Writes what is to go out; `false`: QEMU does not take all of it now.
    fn send(&self, wire: &UnixStream) -> io::Result<bool> {
        let mut state = self.lock();
        while !state.cable.outbox.is_empty() {
            match wire.try_write(&state.cable.outbox) {
                Ok(written) => state.cable.outbox.advance(written),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }
}

impl State {
    /// A socket for a connection that is to be opened, unless it is there or there is no room.
    fn listen(&mut self, tuple: Tuple) -> Option<(smoltcp::iface::SocketHandle, Tuple)> {
        if self.tuples.contains_key(&tuple) {
            return None;
        }
        if self.is_full() {
            self.tell(Refused::Full(tuple.remote));
            return None;
        }
        self.end_given_up();
        let mut socket = connection();
        socket.pause_synack(true);
        socket.listen(tuple.remote).ok()?;
        let handle = self.sockets.add(socket);
        self.tuples.insert(tuple, handle);
        Some((handle, tuple))
    }

    /// Ends connections that the guest has reset before they were open: their sockets listen again, and would take
    /// the next one to the same host for their own.
    fn end_given_up(&mut self) {
        for handle in self.tuples.values() {
            let socket = self.sockets.get_mut::<tcp::Socket<'_>>(*handle);
            if socket.state() == tcp::State::Listen {
                socket.abort();
            }
        }
    }

    fn tell(&self, refused: Refused) {
        // Whoever floods is not told of each.
        let _ = self.arrivals.try_send(Arrival::Refused(refused));
    }

    fn collect_questions(&mut self) {
        let socket = self.sockets.get_mut::<udp::Socket<'_>>(self.questions);
        while socket.can_recv() {
            let Ok(permit) = self.arrivals.try_reserve() else {
                break;
            };
            let Ok((message, metadata)) = socket.recv() else {
                break;
            };
            permit.send(Arrival::Question {
                from: metadata.endpoint.into(),
                message: message.to_vec(),
            });
        }
    }

    /// Forgets connections that have come to their end, or had time enough; tells when the next one will have.
    fn bury_orphans(&mut self) -> Option<Duration> {
        let now = Instant::now();
        let Self {
            sockets,
            orphans,
            tuples,
            ..
        } = self;
        let mut gone = Vec::new();
        orphans.retain(|(handle, until)| {
            let socket = sockets.get_mut::<tcp::Socket<'_>>(*handle);
            let over = matches!(socket.state(), tcp::State::TimeWait | tcp::State::Closed);
            // A socket that was reset says so to the guest first.
            let silent = socket.remote_endpoint().is_none();
            if over && (silent || socket.state() == tcp::State::TimeWait) {
                gone.push(*handle);
                return false;
            }
            if now >= *until {
                socket.abort();
            }
            true
        });
        if !gone.is_empty() {
            tuples.retain(|_, handle| !gone.contains(handle));
        }
        for handle in gone {
            sockets.remove(handle);
        }
        let waiting = orphans
            .iter()
            .map(|(_, until)| until.saturating_duration_since(now));
        waiting.min().map(|left| left.max(LOOK_AGAIN))
    }
}
