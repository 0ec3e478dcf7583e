//! The agent at work: waits until anything happens, and lets each part take its step.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use fumehood_sys::guest::{ChildExit, Signals, peek_exited_child, reap, reserve_descriptors};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::agent::Agent;
use crate::files::Transfer;
use crate::operation::Operation;
use crate::process::MemoryWatch;
use crate::requests::{Client, can_start_queued, serve, start_queued};
use crate::transport::{ClientId, Listener};

/// How long to wait at shutdown until killed programs are dead.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(1);

/// One thread that serves all clients and operations.
#[derive(Debug)]
pub(crate) struct EventLoop {
    agent: Agent,
    listener: Listener,
    clients: Vec<Client>,
    /// Number of clients so far; the id of the next one.
    next_client: u64,
    signals: Signals,
    /// SIGTERM and the like end the loop. PID 1 ignores them.
    exits_on_signal: bool,
}

/// The owner of a polled descriptor.
#[derive(Debug, Clone, Copy)]
enum Source {
    Signals,
    Listener,
    Memory,
    Client(usize),
    /// A file transfer: client and position.
    Transfer(usize, usize),
    /// A program or interpreter that may accept more input.
    Input(usize),
    /// An interpreter's control pipe.
    Control(usize),
    /// An output stream: operation and stream.
    Output(usize, usize),
}

impl EventLoop {
    /// Creates the loop of an agent that serves the clients of `listener`.
    ///
    /// # Errors
    /// Returns a message for the operator.
    pub(crate) fn new(
        agent: Agent,
        listener: Listener,
        signals: Signals,
        exits_on_signal: bool,
    ) -> Result<Self, String> {
        let reserved = reserve_descriptors(agent.confinement.dev_null.as_fd());
        reserved.map_err(|e| format!("cannot reserve descriptors 3 to 5: {e}"))?;
        Ok(Self {
            agent,
            listener,
            clients: Vec::new(),
            next_client: 0,
            signals,
            exits_on_signal,
        })
    }

    /// Runs until a signal ends it.
    ///
    /// # Errors
    /// Returns a message for the operator if `poll` fails.
    pub(crate) fn run(mut self) -> Result<(), String> {
        loop {
            let events = self
                .wait()
                .map_err(|e| format!("cannot wait for events: {e}"))?;

            let now = Instant::now();
            for (source, flags) in events {
                if self.handle_event(source, flags, now) {
                    self.kill_everything();
                    return Ok(());
                }
            }

            // A virtio port cannot be polled for its host.
            if self.listener.poll_fd().is_none() {
                self.accept_client(now);
            }

            self.watch_memory(now);
            self.agent.tick(now);
            for client in &mut self.clients {
                serve(client, &mut self.agent, now);
            }

            self.agent.step_detached(now);

            // Answers are on their way by now: clean up, and start queued execs.
            self.agent.retire_answered();
            start_queued(&mut self.agent, now);
            self.send_notices();
            self.release_gone_clients(now);
        }
    }

    /// Sleeps until an event comes or a timer is due, and returns the events.
    fn wait(&self) -> rustix::io::Result<Vec<(Source, PollFlags)>> {
        let limits = &self.agent.settings.limits;
        let now = Instant::now();
        let mut sources = vec![Source::Signals];
        let mut polled = vec![PollFd::new(&self.signals, PollFlags::IN)];
        let mut add = |source, descriptor, flags| {
            sources.push(source);
            polled.push(PollFd::from_borrowed_fd(descriptor, flags));
        };

        // New clients, and programs that fill their memory.
        if let Some(listener) = self.listener.poll_fd() {
            add(Source::Listener, listener, PollFlags::IN);
        }

        if let Some(memory) = self.agent.memory.as_ref().and_then(MemoryWatch::poll_fd) {
            add(Source::Memory, memory, PollFlags::PRI);
        }

        // Clients, and their watches while there is space for more events.
        for (c, client) in self.clients.iter().enumerate() {
            let connection = &client.connection;
            let (descriptor, flags) = connection.poll_interest(client.can_queue(), limits);
            add(Source::Client(c), descriptor, flags);

            for (t, transfer) in client.transfers.iter().enumerate() {
                let pollable = transfer.poll_fd();
                if let Some(fd) = pollable.filter(|_| !connection.outbox.is_full(limits)) {
                    add(Source::Transfer(c, t), fd, PollFlags::IN);
                }
            }
        }

        // Programs: pending input, control messages, and output while the client accepts it.
        for (o, operation) in self.agent.operations.iter().enumerate() {
            for pending in operation.pending_fds() {
                add(Source::Input(o), pending, PollFlags::OUT);
            }

            if let Some(control) = operation.control_fd() {
                add(Source::Control(o), control, PollFlags::IN);
            }

            if self.is_full(operation) {
                continue;
            }

            for stream in 0..operation.outputs.len() {
                if let Some(pipe) = operation.output_fd(stream, limits, now) {
                    add(Source::Output(o, stream), pipe, PollFlags::IN);
                }
            }
        }

        match poll(&mut polled, self.poll_timeout().as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error),
        }

        let events = sources.into_iter().zip(polled.iter().map(PollFd::revents));

        Ok(events.filter(|(_, flags)| !flags.is_empty()).collect())
    }

    /// Whether the operation's client accepts no more output now.
    fn is_full(&self, operation: &Operation) -> bool {
        let limits = &self.agent.settings.limits;
        let mut connections = self.clients.iter().map(|client| &client.connection);
        let client = connections.find(|c| operation.client == Some(c.id));
        client.is_some_and(|client| client.outbox.is_full(limits))
    }

    /// How long to sleep at most. `None`: until an event.
    fn poll_timeout(&self) -> Option<Timespec> {
        let limits = &self.agent.settings.limits;
        let memory = self.agent.memory.as_ref().and_then(MemoryWatch::deadline);
        let mut deadline = [self.listener.deadline(), memory]
            .into_iter()
            .flatten()
            .min();

        let earlier = |a: Option<Instant>, b: Option<Instant>| a.into_iter().chain(b).min();

        // Do not sleep while there is work.
        let mut has_work = self.agent.operations.of(None).any(Operation::has_work);
        has_work |= !self.agent.queue.is_empty() && can_start_queued(&self.agent);

        for client in &self.clients {
            has_work |= client.has_work(&self.agent);
            deadline = earlier(deadline, client.connection.deadline());
        }

        if has_work {
            return Some(Timespec {
                tv_sec: 0,
                tv_nsec: 0,
            });
        }

        for operation in self.agent.operations.iter() {
            let due = operation.deadline(self.is_full(operation), limits);
            deadline = earlier(deadline, due);
        }

        let timeout = deadline?.saturating_duration_since(Instant::now());
        // Waking up a little late is better than too early, when nothing is due yet.
        let timeout = timeout + Duration::from_micros(u64::from(!timeout.is_zero()));

        Timespec::try_from(timeout).ok()
    }

    /// Handles one event. Returns whether the program must exit.
    fn handle_event(&mut self, source: Source, flags: PollFlags, now: Instant) -> bool {
        match source {
            Source::Signals => {
                let pending = self.signals.drain();
                if pending.child {
                    self.reap(now);
                }
                return pending.terminate && self.exits_on_signal;
            }
            Source::Listener => self.accept_client(now),
            Source::Memory => {
                if let Some(memory) = &mut self.agent.memory {
                    memory.limit_reached(now);
                }
            }
            Source::Client(c) => self.clients[c].connection.handle_events(flags),
            Source::Transfer(c, t) => {
                // Requests are handled after all events, so the transfer still exists.
                if let Transfer::Watch(watch) = &mut self.clients[c].transfers[t] {
                    watch.set_readable();
                }
            }
            Source::Input(o) => self.agent.operations.get(o).write_pending(),
            Source::Control(o) => self.agent.operations.get(o).read_control(now),
            Source::Output(o, s) => self.agent.operations.get(o).output_is_readable(s),
        }

        false
    }

    fn accept_client(&mut self, now: Instant) {
        let count = self.clients.len();
        let id = ClientId(self.next_client);
        let settings = &self.agent.settings;

        if let Some(connection) = self.listener.accept(id, count, settings, now) {
            self.clients.push(Client::new(connection));
            self.next_client += 1;
        }
    }

    /// Kills the largest process when memory is full and no program makes progress.
    fn watch_memory(&mut self, now: Instant) {
        let memory = self.agent.memory.as_mut();
        if !memory.is_some_and(|memory| memory.should_kill(now)) {
            return;
        }

        let operations = self.agent.operations.iter_mut();
        let running = operations.filter(|o| o.end.is_none());
        if let Some(largest) = running.max_by_key(|o| o.process.memory_bytes()) {
            largest.kill_largest_process();
        }
    }

    /// Sends the messages that are not answers to a client's own request.
    fn send_notices(&mut self) {
        for (id, notice) in std::mem::take(&mut self.agent.notices) {
            let mut connections = self.clients.iter_mut().map(|c| &mut c.connection);
            if let Some(connection) = connections.find(|c| c.id == id) {
                connection.outbox.answer(&notice);
                connection.send();
            }
        }
    }

    fn release_gone_clients(&mut self, now: Instant) {
        let mut at = 0;
        while at < self.clients.len() {
            if self.clients[at].connection.is_gone() {
                let client = self.clients.swap_remove(at);
                self.listener.release(client.connection, now);
            } else {
                at += 1;
            }
        }
    }

    /// Reaps every child that has ended: programs, interpreters, and their orphans.
    fn reap(&mut self, now: Instant) {
        while let Ok(Some(pid)) = peek_exited_child() {
            self.reap_one(pid, now);
        }
        if let Some(cgroups) = &mut self.agent.confinement.cgroups {
            cgroups.sweep();
        }
    }

    fn reap_one(&mut self, pid: i32, now: Instant) {
        let agent = &mut self.agent;
        let operations = agent.operations.iter_mut();
        let mut running: Vec<_> = operations
            .filter(|o| o.end.is_none() || o.interpreter_alive)
            .collect();

        let alive = running.len() + agent.abandoned.len() + agent.pool.process_count();
        let is_only = alive == 1;

        // The process of an operation, or the interpreter that has survived its program.
        if let Some(operation) = running.iter_mut().find(|o| o.process.pid() == pid) {
            if operation.interpreter_alive {
                operation.interpreter_died();
                operation.process.kill_leftovers(is_only);
                reap_child(pid);
            } else {
                operation.handle_exit(is_only, now, || reap_child(pid));
            }
            return;
        }

        // An interpreter between two programs.
        if let Some(mut dead) = agent.pool.take_dead(pid) {
            dead.process.kill_leftovers(is_only);
            reap_child(pid);
            dead.process.clean_up(agent.confinement.cgroups.as_mut());
            return;
        }

        // A process that the agent has killed.
        let mut abandoned = agent.abandoned.iter();
        if let Some(at) = abandoned.position(|process| process.pid() == pid) {
            agent.abandoned[at].kill_leftovers(is_only);
            reap_child(pid);
            let mut process = agent.abandoned.swap_remove(at);
            process.clean_up(agent.confinement.cgroups.as_mut());
            return;
        }

        // An orphan.
        reap_child(pid);
    }

    /// Kills all programs and waits until they are dead, which takes a moment.
    fn kill_everything(&mut self) {
        for operation in self.agent.operations.take(|_| true) {
            self.agent.abandon(operation);
        }

        for interpreter in self.agent.pool.take_all() {
            interpreter.process.kill();
            self.agent.abandoned.push(interpreter.process);
        }

        let started = Instant::now();
        while !self.agent.abandoned.is_empty() && started.elapsed() < SHUTDOWN_TIMEOUT {
            self.reap(Instant::now());
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Reaps a child that is known to have ended.
fn reap_child(pid: i32) -> ChildExit {
    let unknown = ChildExit {
        code: None,
        signal: None,
        cpu_time_us: 0,
        peak_memory_bytes: 0,
    };

    reap(pid).ok().flatten().unwrap_or(unknown)
}
