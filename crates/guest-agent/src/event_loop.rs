use std::io::Write;
use std::net::TcpListener;
use std::time::{Duration, Instant};

use fumehood_sys::guest::{ChildExit, Signals, peek_exited_child, reap, reserve_descriptors};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::Mode;
use rustix::process::DumpableBehavior;

use crate::agent::Agent;
use crate::args::Listen;
use crate::cgroup::Cgroups;
use crate::command::Interpreters;
use crate::confine::Confinement;
use crate::connection::Connection;
use crate::door::Door;
use crate::files::Transfer;
use crate::memory::MemoryWatch;
use crate::operation::Operation;
use crate::operations::ClientId;
use crate::settings::Settings;

/// PATH of programs where the agent itself has none.
pub(crate) const DEFAULT_PATH: &str =
    "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// How long to wait at the end for killed programs to be dead.
const LAST_PATIENCE: Duration = Duration::from_secs(1);

/// The agent at work: waits for anything to happen, and lets each part take its step.
#[derive(Debug)]
pub(crate) struct EventLoop {
    agent: Agent,
    door: Door,
    connections: Vec<Connection>,
    /// Clients so far.
    clients: u64,
    signals: Signals,
    /// SIGTERM and the like end it. PID 1 stays whatever comes.
    may_end: bool,
}

/// What poll can have seen.
#[derive(Debug, Clone, Copy)]
enum Source {
    Signals,
    Door,
    Memory,
    Connection(usize),
    Transfer(usize, usize),
    Unsent(usize),
    Words(usize),
    Output(usize, usize),
}

/// Serves TCP until a signal ends it.
///
/// # Errors
/// A sentence for the operator.
pub(crate) fn listen(listen: Listen) -> Result<(), String> {
    let failed = |what: &'static str| move |e: std::io::Error| format!("cannot {what}: {e}");
    let signals = Signals::take().map_err(failed("take over signals"))?;
    rustix::process::umask(Mode::from_raw_mode(0o022));
    if listen.user.is_some() {
        // Else they would give rights to files that the user does not have.
        let left = rustix::thread::set_thread_groups(&[]);
        left.map_err(|e| failed("leave the groups of this process")(e.into()))?;
    }
    // Programs of the same user may not read the token out of this process.
    let undumpable = rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable);
    undumpable.map_err(|e| failed("hide this process's memory")(e.into()))?;
    // Orphans come to this process, which can then end them.
    let own = Some(rustix::process::getpid());
    rustix::process::set_child_subreaper(own)
        .map_err(|e| failed("become a subreaper")(e.into()))?;
    let path = std::env::var("PATH").unwrap_or_else(|_| DEFAULT_PATH.into());
    let here = std::env::current_dir().map_err(failed("find the working directory"))?;
    let directory = listen
        .user
        .as_ref()
        .map_or(here.as_path(), |user| user.home.as_path());
    let mut confinement = Confinement::new(directory, &path, listen.user.as_ref())?;
    if let Some(path) = &listen.cgroup {
        let cgroups = Cgroups::open(path, None);
        confinement.cgroups =
            Some(cgroups.map_err(|e| format!("cannot use {} for cgroups: {e}", path.display()))?);
    }
    warn(&listen);
    let boot_id = random_id().map_err(failed("get random bytes"))?;
    let runners = std::env::temp_dir().join(format!("fumehood-agent-{boot_id}"));
    let interpreters = Interpreters::new(runners, &path).map_err(failed("write the runners"))?;
    let settings = Settings {
        limits: listen.limits,
        token: listen.token,
        boot_id,
    };
    let agent = Agent::new(settings, confinement, interpreters);
    let listener = TcpListener::bind(listen.address).map_err(|e| {
        format!(
            "cannot listen on {}: {e}; choose another port, or 0 for any",
            listen.address
        )
    })?;
    listener
        .set_nonblocking(true)
        .map_err(failed("listen without blocking"))?;
    let address = listener.local_addr().map_err(failed("learn the port"))?;
    println!("listening on {address}");
    std::io::stdout()
        .flush()
        .map_err(failed("print the address"))?;
    EventLoop::new(agent, Door::Tcp(listener), signals, true)?.run()
}

fn warn(listen: &Listen) {
    if listen.token.is_none() {
        eprintln!(
            "fumehood-agent: warning: no token: every user of this machine can run code here"
        );
    }
    if listen.user.is_none() && rustix::process::geteuid().is_root() {
        eprintln!("fumehood-agent: warning: programs run as root; choose another user with --user");
    }
}

/// 128 random bits, as hexadecimal digits.
fn random_id() -> std::io::Result<String> {
    let mut bytes = [0; 16];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

impl EventLoop {
    /// An agent that serves who comes in by `door`.
    ///
    /// # Errors
    /// A sentence for the operator.
    pub(crate) fn new(
        agent: Agent,
        door: Door,
        signals: Signals,
        may_end: bool,
    ) -> Result<Self, String> {
        use std::os::fd::AsFd;
        let reserved = reserve_descriptors(agent.confinement.null.as_fd());
        reserved.map_err(|e| format!("cannot reserve descriptors 3 to 5: {e}"))?;
        Ok(Self {
            agent,
            door,
            connections: Vec::new(),
            clients: 0,
            signals,
            may_end,
        })
    }

    /// Works until it is told to end.
    ///
    /// # Errors
    /// The kernel refuses to wait.
    pub(crate) fn run(mut self) -> Result<(), String> {
        loop {
            let seen = self
                .wait()
                .map_err(|e| format!("cannot wait for events: {e}"))?;
            let now = Instant::now();
            for (source, flags) in seen {
                if self.handle(source, flags, now) {
                    self.kill_everything();
                    return Ok(());
                }
            }
            if self.door.awaited().is_none() {
                self.admit(now);
            }
            self.watch_memory(now);
            self.agent.tick(now);
            for connection in &mut self.connections {
                connection.step(&mut self.agent, now);
            }
            self.agent.step_unfollowed(now);
            self.agent.clear_away();
            self.part(now);
        }
    }

    /// Sleeps until something happens or is due, and says what.
    fn wait(&self) -> rustix::io::Result<Vec<(Source, PollFlags)>> {
        let limits = &self.agent.settings.limits;
        let now = Instant::now();
        let mut sources = vec![Source::Signals];
        let mut polled = vec![PollFd::new(&self.signals, PollFlags::IN)];
        let mut add = |source, descriptor, flags| {
            sources.push(source);
            polled.push(PollFd::from_borrowed_fd(descriptor, flags));
        };
        if let Some(door) = self.door.awaited() {
            add(Source::Door, door, PollFlags::IN);
        }
        if let Some(memory) = self.agent.memory.as_ref().and_then(MemoryWatch::awaited) {
            add(Source::Memory, memory, PollFlags::PRI);
        }
        for (c, connection) in self.connections.iter().enumerate() {
            let (descriptor, flags) = connection.awaited(limits);
            add(Source::Connection(c), descriptor, flags);
            for (t, transfer) in connection.transfers.iter().enumerate() {
                let awaited = transfer.awaited();
                if let Some(awaited) = awaited.filter(|_| !connection.outbox.is_full(limits)) {
                    add(Source::Transfer(c, t), awaited, PollFlags::IN);
                }
            }
        }
        for (o, operation) in self.agent.operations.iter().enumerate() {
            for unsent in operation.unsent() {
                add(Source::Unsent(o), unsent, PollFlags::OUT);
            }
            if let Some(words) = operation.words() {
                add(Source::Words(o), words, PollFlags::IN);
            }
            if self.is_full(operation) {
                continue;
            }
            for stream in 0..operation.outputs.len() {
                if let Some(pipe) = operation.awaited(stream, limits, now) {
                    add(Source::Output(o, stream), pipe, PollFlags::IN);
                }
            }
        }
        match poll(&mut polled, self.patience().as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error),
        }
        let seen = sources.into_iter().zip(polled.iter().map(PollFd::revents));
        Ok(seen.filter(|(_, flags)| !flags.is_empty()).collect())
    }

    /// Whether the operation's client takes no more now.
    fn is_full(&self, operation: &Operation) -> bool {
        let limits = &self.agent.settings.limits;
        let mut connections = self.connections.iter();
        let client = connections.find(|c| operation.client == Some(c.id));
        client.is_some_and(|client| client.outbox.is_full(limits))
    }

    /// How long nothing is due.
    fn patience(&self) -> Option<Timespec> {
        let limits = &self.agent.settings.limits;
        let memory = self.agent.memory.as_ref().and_then(MemoryWatch::deadline);
        let mut deadline = [self.door.deadline(), memory].into_iter().flatten().min();
        let earlier = |a: Option<Instant>, b: Option<Instant>| a.into_iter().chain(b).min();
        let mut has_work = self.agent.operations.of(None).any(Operation::has_work);
        has_work |= !self.agent.queue.is_empty() && self.agent.can_begin();
        for connection in &self.connections {
            has_work |= connection.has_work(&self.agent);
            deadline = earlier(deadline, connection.deadline());
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
        let patience = deadline?.saturating_duration_since(Instant::now());
        // Waking a little late is better than waking too early, to find nothing due.
        let patience = patience + Duration::from_micros(u64::from(!patience.is_zero()));
        Timespec::try_from(patience).ok()
    }

    /// One thing that poll saw. True: the program is asked to end.
    fn handle(&mut self, source: Source, flags: PollFlags, now: Instant) -> bool {
        match source {
            Source::Signals => {
                let seen = self.signals.drain();
                if seen.child {
                    self.reap(now);
                }
                return seen.terminate && self.may_end;
            }
            Source::Door => self.admit(now),
            Source::Memory => {
                if let Some(memory) = &mut self.agent.memory {
                    memory.met(now);
                }
            }
            Source::Connection(c) => self.connections[c].ready(flags),
            Source::Transfer(c, t) => {
                // Requests are taken after all sources: it is still there.
                if let Transfer::Watch(watching) = &mut self.connections[c].transfers[t] {
                    watching.is_readable();
                }
            }
            Source::Unsent(o) => self.agent.operations.get(o).feed(),
            Source::Words(o) => self.agent.operations.get(o).listen(now),
            Source::Output(o, s) => self.agent.operations.get(o).outputs[s].is_readable(),
        }
        false
    }

    fn admit(&mut self, now: Instant) {
        let inside = self.connections.len();
        let id = ClientId(self.clients);
        if let Some(connection) = self.door.admit(id, inside, &self.agent.settings, now) {
            self.connections.push(connection);
            self.clients += 1;
        }
    }

    /// Kills the largest operation when memory is full and nothing gets on.
    fn watch_memory(&mut self, now: Instant) {
        if !self
            .agent
            .memory
            .as_mut()
            .is_some_and(|memory| memory.look(now))
        {
            return;
        }
        let operations = self.agent.operations.iter_mut();
        let running = operations.filter(|o| o.end.is_none());
        if let Some(largest) = running.max_by_key(|o| o.process.memory_bytes()) {
            largest.choke();
        }
    }

    /// Tells clients what they are to be told besides, and lets go of those that are gone.
    fn part(&mut self, now: Instant) {
        self.agent.begin_queued(now);
        for (id, notice) in std::mem::take(&mut self.agent.notices) {
            if let Some(connection) = self.connections.iter_mut().find(|c| c.id == id) {
                connection.outbox.answer(&notice);
                connection.send();
            }
        }
        let mut at = 0;
        while at < self.connections.len() {
            if self.connections[at].is_gone() {
                let connection = self.connections.swap_remove(at);
                self.door.left(connection, now);
            } else {
                at += 1;
            }
        }
    }

    /// Reaps every child that has ended: programs, and orphans of theirs.
    fn reap(&mut self, now: Instant) {
        while let Ok(Some(pid)) = peek_exited_child() {
            let operations = self.agent.operations.iter_mut();
            let mut running: Vec<_> = operations
                .filter(|o| o.end.is_none() || o.survived)
                .collect();
            let alive = running.len() + self.agent.abandoned.len() + self.agent.kept.count();
            if let Some(operation) = running.iter_mut().find(|o| o.process.pid() == pid) {
                if operation.survived {
                    operation.died();
                    operation.process.kill_left(alive == 1);
                    reaped(pid);
                } else {
                    operation.ended(alive == 1, now, || reaped(pid));
                }
                continue;
            }
            if let Some(mut dead) = self.agent.kept.take_dead(pid) {
                dead.process.kill_left(alive == 1);
                reaped(pid);
                dead.process.clean(self.agent.confinement.cgroups.as_mut());
                continue;
            }
            let abandoned = &mut self.agent.abandoned;
            if let Some(at) = abandoned.iter().position(|process| process.pid() == pid) {
                abandoned[at].kill_left(alive == 1);
                reaped(pid);
                abandoned
                    .swap_remove(at)
                    .clean(self.agent.confinement.cgroups.as_mut());
                continue;
            }
            reaped(pid);
        }
        if let Some(cgroups) = &mut self.agent.confinement.cgroups {
            cgroups.sweep();
        }
    }

    /// Kills all programs and waits for their deaths, which take no time to speak of.
    fn kill_everything(&mut self) {
        for operation in self.agent.operations.take(|_| true) {
            self.agent.abandon(operation);
        }
        for interpreter in self.agent.kept.take_all() {
            interpreter.process.kill();
            self.agent.abandoned.push(interpreter.process);
        }
        let begun = Instant::now();
        while !self.agent.abandoned.is_empty() && begun.elapsed() < LAST_PATIENCE {
            self.reap(Instant::now());
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// The end of a child that is known to have ended.
fn reaped(pid: i32) -> ChildExit {
    let nothing = ChildExit {
        code: None,
        signal: None,
        cpu_time_us: 0,
        peak_memory_bytes: 0,
    };
    reap(pid).ok().flatten().unwrap_or(nothing)
}
