use std::fs::File;
use std::io;
use std::time::{Duration, Instant};

use fumehood_protocol::{
    ErrorType, ProcessKind, Quiesce, Quiesced, Refresh, Refreshed, Request, Response, WireError,
};
use fumehood_sys::guest::{MappedFile, add_entropy, reap, reseed};
use rustix::time::{ClockId, Timespec, clock_settime};

use crate::agent::Agent;
use crate::args::set_one_limit;
use crate::cgroup::Cgroup;
use crate::connection::Connection;
use crate::operation::Operation;
use crate::trust::Trust;

/// How long processes may take to stand still.
const FREEZE: Duration = Duration::from_secs(10);

/// Room for a name in /etc/hosts, in characters: the longest.
const HOSTS_NAME: usize = 63;

/// The file /etc/hosts for a guest of this name. Always as long: it is written over.
pub(crate) fn hosts(name: &str) -> String {
    format!("127.0.0.1 localhost {name:<HOSTS_NAME$}\n::1 localhost\n")
}

/// What makes a guest one of its own. All of it is open from the boot on, and its files are mapped: a restored
/// guest has no time to look for it.
#[derive(Debug)]
pub(crate) struct Identity {
    pub(crate) random: File,
    pub(crate) machine_id: MappedFile,
    pub(crate) boot_id: MappedFile,
    pub(crate) hosts: MappedFile,
    /// Whom programs trust.
    pub(crate) trust: Trust,
    /// The state was or will be saved: nothing runs before it has been refreshed.
    pub(crate) awaits_refresh: bool,
    /// The machine id that it has; empty before its first refresh.
    pub(crate) known_as: String,
}

/// Refuses what may not be done before a refresh.
///
/// # Errors
/// `refresh_error`.
pub(crate) fn admits(agent: &Agent, request: &Request) -> Result<(), WireError> {
    let awaits = agent.identity.as_ref().is_some_and(|i| i.awaits_refresh);
    let always = matches!(
        request,
        Request::Hello(_) | Request::Ping(_) | Request::Quiesce(_) | Request::Refresh(_)
    );
    // What is about an operation finds none.
    if !awaits || always || request.targets_running_operation() {
        return Ok(());
    }
    let message = "the guest's state was saved, and it waits for its `refresh`; send that first";
    Err(WireError::new(ErrorType::RefreshError, message))
}

fn identity(agent: &mut Agent) -> Result<&mut Identity, WireError> {
    let message = "this agent runs on a machine that is not its own: its clock, randomness and name are not to be changed";
    let missing = || WireError::new(ErrorType::RequestError, message);
    agent.identity.as_mut().ok_or_else(missing)
}

/// Stops the user's processes; from now on nothing runs before a refresh.
///
/// # Errors
/// `agent_error`: they do not stand still.
pub(crate) fn quiesce(
    connection: &mut Connection,
    request: &Quiesce,
    agent: &mut Agent,
) -> Result<(), WireError> {
    identity(agent)?;
    bury(agent);
    // A program that was left to itself is frozen, and goes on in each copy. Those that are being killed
    // count as well. A guest of ours has one connection.
    let others = agent
        .operations
        .iter()
        .filter(|o| !goes_on_by_itself(o))
        .count();
    let files = connection.replays.len() + connection.transfers.len();
    let queued = usize::from(!agent.queue.is_empty());
    let operations = others + files + queued + agent.abandoned.len();
    if operations > 0 {
        let message = format!(
            "{operations} operations are running; a state is saved only when none does: wait for their ends, or cancel them"
        );
        return Err(WireError::new(ErrorType::BusyError, message));
    }
    if let Err(error) = freeze(agent) {
        thaw(agent);
        let message = format!("the user's processes do not stand still: {error}; try again");
        return Err(WireError::new(ErrorType::AgentError, message));
    }
    identity(agent)?.awaits_refresh = true;
    connection.outbox.answer(&Response::Quiesced(Quiesced {
        op_id: request.op_id,
    }));
    Ok(())
}

/// Waits for the deaths of what has been killed: an exec may have been answered before its process was gone.
fn bury(agent: &mut Agent) {
    let begun = Instant::now();
    while !agent.abandoned.is_empty() && begun.elapsed() < FREEZE {
        let cgroups = &mut agent.confinement.cgroups;
        agent.abandoned.retain_mut(|process| {
            let lives = matches!(reap(process.pid()), Ok(None));
            if !lives {
                process.clean(cgroups.as_mut());
            }
            lives
        });
        if !agent.abandoned.is_empty() {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

fn goes_on_by_itself(operation: &Operation) -> bool {
    operation.client.is_none() && operation.kind == ProcessKind::Spawn && operation.end.is_none()
}

/// The cgroups of all that is the user's and goes on. An interpreter that has run nothing of his waits
/// anyway, and to thaw it would cost a restored guest time.
fn cgroups(agent: &mut Agent) -> impl Iterator<Item = &Cgroup> {
    let kept = agent.kept.idle().filter(|interpreter| interpreter.tainted);
    let kept = kept.filter_map(|interpreter| interpreter.process.cgroup());
    let operations = agent.operations.iter();
    kept.chain(operations.filter_map(|operation| operation.process.cgroup()))
}

fn freeze(agent: &mut Agent) -> io::Result<()> {
    let begun = Instant::now();
    for cgroup in cgroups(agent) {
        cgroup.freeze(true)?;
        while !cgroup.is_frozen() {
            if begun.elapsed() > FREEZE {
                return Err(io::ErrorKind::TimedOut.into());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    Ok(())
}

fn thaw(agent: &mut Agent) {
    for cgroup in cgroups(agent) {
        let _ = cgroup.freeze(false);
    }
}

/// Makes this guest one of its own. Where a step fails, the guest goes on waiting.
///
/// # Errors
/// `request_error` for a value past its limit, `agent_error` when the kernel refuses something.
pub(crate) fn refresh(
    connection: &mut Connection,
    request: &Refresh,
    agent: &mut Agent,
) -> Result<(), WireError> {
    let entropy = request.check()?;
    let mut limits = agent.settings.limits;
    for (name, value) in &request.limits {
        let refused = |message| WireError::new(ErrorType::RequestError, message);
        set_one_limit(&mut limits, name, *value).map_err(refused)?;
    }
    if let Some(environment) = &request.environment {
        environment.check(&limits)?;
    }
    let identity = identity(agent)?;
    // Until all of it is done.
    identity.awaits_refresh = true;
    let boot_id = identity.renew(request, &entropy).map_err(|error| {
        let message = format!("the guest could not be refreshed: {error}; use another one");
        WireError::new(ErrorType::AgentError, message)
    })?;
    identity.awaits_refresh = false;
    if identity.known_as != request.machine_id {
        // Another guest than the one that was saved: what that did is not what this one did.
        identity.known_as.clone_from(&request.machine_id);
        agent.journal.clear();
    }
    agent.settings.limits = limits;
    connection.set_limits(&limits);
    agent.settings.boot_id.clone_from(&boot_id);
    for interpreter in agent.kept.idle() {
        interpreter.reseed = true;
        interpreter.lacks_environment |= request.environment.is_some();
    }
    if let Some(environment) = &request.environment {
        agent.confinement.brought = environment.clone();
    }
    thaw(agent);
    let op_id = request.op_id;
    let refreshed = Refreshed { op_id, boot_id };
    connection.outbox.answer(&Response::Refreshed(refreshed));
    Ok(())
}

impl Identity {
    fn renew(&mut self, request: &Refresh, entropy: &[u8]) -> io::Result<String> {
        let microseconds = i64::try_from(request.wall_clock_us).unwrap_or(i64::MAX);
        let time = Timespec {
            tv_sec: microseconds / 1_000_000,
            tv_nsec: microseconds % 1_000_000 * 1000,
        };
        clock_settime(ClockId::Realtime, time)?;
        add_entropy(&self.random, entropy)?;
        reseed(&self.random)?;
        rustix::system::sethostname(request.hostname.as_bytes())?;
        self.machine_id.write(request.machine_id.as_bytes());
        self.hosts.write(hosts(&request.hostname).as_bytes());
        if let Some(certificates) = &request.certificates {
            self.trust.bring(certificates)?;
        }
        let boot_id = new_boot_id()?;
        self.boot_id.write(boot_id.as_bytes());
        Ok(boot_id)
    }
}

/// A random UUID, as the kernel makes one for each boot.
pub(crate) fn new_boot_id() -> io::Result<String> {
    let mut bytes = [0; 16];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
    // Version 4, variant 1.
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let mut text = String::with_capacity(36);
    for (at, byte) in bytes.into_iter().enumerate() {
        if [4, 6, 8, 10].contains(&at) {
            text.push('-');
        }
        for digit in [byte >> 4, byte & 15] {
            text.push(char::from_digit(u32::from(digit), 16).unwrap_or('0'));
        }
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boot_ids_are_random_uuids() {
        let (one, other) = (new_boot_id().unwrap(), new_boot_id().unwrap());
        assert_ne!(one, other);
        let lengths: Vec<usize> = one.split('-').map(str::len).collect();
        assert_eq!((lengths, &one[14..15]), (vec![8, 4, 4, 4, 12], "4"));
    }
}
