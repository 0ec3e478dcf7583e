use std::io;
use std::time::{Duration, Instant};

use fumehood_protocol::{
    ErrorType, ProcessKind, Quiesce, Quiesced, Refresh, Refreshed, Response, RunningProgram,
    WireError,
};
use fumehood_sys::guest::reap;

use super::client::Client;
use crate::agent::Agent;
use crate::identity::Identity;
use crate::operation::Operation;
use crate::process::{Cgroup, ForkMarks, procfs};
use crate::settings::set_limit_value;
use crate::transport::Connection;

/// How long killed processes may take to die, and live ones to freeze.
const FREEZE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the agent may look for the marks of frozen processes: 2 ms for each under emulation, if it is an ordinary one.
const MARKS_TIMEOUT: Duration = Duration::from_secs(5);

fn require_identity(agent: &mut Agent) -> Result<&mut Identity, WireError> {
    let missing = || {
        let message = "this agent does not own its machine: it must not change the clock, \
             randomness and name there";
        WireError::new(ErrorType::RequestError, message)
    };
    agent.identity.as_mut().ok_or_else(missing)
}

/// Freezes the user's processes, so that the guest's state can be saved. From then on no code runs before a refresh.
///
/// # Errors
/// `request_error` if the agent does not own its machine; `busy_error` while operations are running; `agent_error` if
/// the processes do not freeze.
pub(super) fn quiesce(
    client: &mut Client,
    request: &Quiesce,
    agent: &mut Agent,
) -> Result<(), WireError> {
    require_identity(agent)?;
    reap_abandoned(agent);

    // A detached program is frozen and continues in each copy. Everything else must have ended, killed processes
    // included. A guest has one connection, so this client's work is all there is.
    let attached = agent.operations.iter().filter(|o| !is_detached(o)).count();
    let files = client.replays.len() + client.transfers.len();
    let queued = usize::from(!agent.queue.is_empty());
    let operations = attached + files + queued + agent.abandoned.len();

    if operations > 0 {
        let message = format!(
            "{operations} operations are running and the state can only be saved when none is; \
             wait until they end, or cancel them"
        );
        return Err(WireError::new(ErrorType::BusyError, message));
    }

    // A state that is saved twice must not keep the marks of its first copy.
    require_identity(agent)?.fork_marks.clear();
    let found = freeze(agent).and_then(|()| find_fork_marks(agent));
    let marks = found.map_err(|error| {
        thaw(agent);
        let message = format!(
            "cannot freeze the user's processes, or find what their copies would share: {error}; \
             end processes with very many mappings, or try again"
        );
        WireError::new(ErrorType::AgentError, message)
    })?;

    let identity = require_identity(agent)?;
    identity.fork_marks = marks;
    identity.awaits_refresh = true;
    let quiesced = Quiesced {
        op_id: request.op_id,
        ..list_programs(agent)
    };
    let outbox = &mut client.connection.outbox;
    outbox.answer(&Response::Quiesced(quiesced));

    Ok(())
}

/// Waits until killed processes are dead. An exec may have been answered before its process was gone.
fn reap_abandoned(agent: &mut Agent) {
    let started = Instant::now();
    while !agent.abandoned.is_empty() && started.elapsed() < FREEZE_TIMEOUT {
        let cgroups = &mut agent.confinement.cgroups;
        agent.abandoned.retain_mut(|process| {
            let is_alive = matches!(reap(process.pid()), Ok(None));
            if !is_alive {
                process.clean_up(cgroups.as_mut());
            }
            is_alive
        });

        if !agent.abandoned.is_empty() {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Whether this is a spawned program that runs without a client.
fn is_detached(operation: &Operation) -> bool {
    operation.client.is_none() && operation.kind == ProcessKind::Spawn && operation.end.is_none()
}

/// The cgroups of everything of the user that keeps running. An interpreter that has not run user code is left out: it
/// only waits, and to thaw it would cost a restored guest time.
fn user_cgroups(agent: &mut Agent) -> impl Iterator<Item = &Cgroup> {
    let used = agent.pool.idle().filter(|i| i.has_run_user_code);
    let used = used.filter_map(|interpreter| interpreter.process.cgroup());
    let operations = agent.operations.iter();
    used.chain(operations.filter_map(|operation| operation.process.cgroup()))
}

fn freeze(agent: &mut Agent) -> io::Result<()> {
    let started = Instant::now();
    for cgroup in user_cgroups(agent) {
        cgroup.freeze(true)?;
        while !cgroup.is_frozen() {
            if started.elapsed() > FREEZE_TIMEOUT {
                return Err(io::ErrorKind::TimedOut.into());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    Ok(())
}

/// Finds the marks of everything that continues after a refresh, interpreters that wait for their first program
/// included. Now, because a restored guest has no time to look for them.
fn find_fork_marks(agent: &mut Agent) -> io::Result<Vec<ForkMarks>> {
    let deadline = Instant::now() + MARKS_TIMEOUT;
    let mut found = Vec::new();

    for interpreter in agent.pool.idle() {
        let marks = ForkMarks::find(interpreter.process.pid(), deadline)?;
        interpreter.has_drawn = marks.is_some();
        // The other processes of one that has run user code follow below.
        if !interpreter.has_run_user_code {
            found.extend(marks);
        }
    }

    let processes: Vec<i32> = user_cgroups(agent).flat_map(Cgroup::processes).collect();
    for pid in processes {
        found.extend(ForkMarks::find(pid, deadline)?);
    }

    Ok(found)
}

/// Lists the programs whose random generators the agent cannot reseed: everything of the user that continues after a
/// refresh, except its interpreters, which are reseeded.
fn list_programs(agent: &mut Agent) -> Quiesced {
    let interpreters: Vec<i32> = agent.pool.idle().map(|i| i.process.pid()).collect();
    let processes: Vec<i32> = user_cgroups(agent).flat_map(Cgroup::processes).collect();
    describe_programs(&processes, &interpreters)
}

fn describe_programs(processes: &[i32], interpreters: &[i32]) -> Quiesced {
    let programs = processes.iter().filter(|pid| !interpreters.contains(pid));
    let described = programs
        .clone()
        .filter_map(|pid| Some(RunningProgram::new(*pid, &procfs::name(*pid)?)));

    Quiesced {
        op_id: None,
        programs: described.take(RunningProgram::MAX_LISTED).collect(),
        program_count: programs.count() as u64,
    }
}

fn thaw(agent: &mut Agent) {
    for cgroup in user_cgroups(agent) {
        // Best effort: there is nothing else to try.
        let _ = cgroup.freeze(false);
    }
}

/// Gives this guest its own identity, limits and environment. If a step fails, the guest keeps waiting for a refresh.
///
/// # Errors
/// `request_error` for a value that exceeds its limit, `agent_error` if the kernel rejects something.
pub(super) fn refresh(
    connection: &mut Connection,
    request: &Refresh,
    agent: &mut Agent,
) -> Result<(), WireError> {
    // Check everything before the first change.
    let entropy = request.check()?;
    let mut limits = agent.settings.limits;
    for (name, value) in &request.limits {
        let rejected = |message| WireError::new(ErrorType::RequestError, message);
        set_limit_value(&mut limits, name, *value).map_err(rejected)?;
    }

    if let Some(environment) = &request.environment {
        environment.check(&limits)?;
    }

    // The guest counts as refreshed only when every step has succeeded.
    let identity = require_identity(agent)?;
    identity.awaits_refresh = true;
    let boot_id = identity.apply(request, &entropy).map_err(|error| {
        let message = format!("cannot refresh the guest: {error}; use another one");
        WireError::new(ErrorType::AgentError, message)
    })?;
    identity.awaits_refresh = false;
    // From now on these processes run, and may use that memory for something else.
    identity.fork_marks.clear();
    if identity.machine_id_str != request.machine_id {
        // This is another guest than the one that was saved: it has not run that one's operations.
        identity.machine_id_str.clone_from(&request.machine_id);
        agent.journal.clear();
    }

    agent.settings.limits = limits;
    connection.set_limits(&limits);
    agent.settings.boot_id.clone_from(&boot_id);

    // Waiting interpreters get their seed and their variables with the next program.
    for interpreter in agent.pool.idle() {
        interpreter.reseed = true;
        interpreter.needs_environment |= request.environment.is_some();
    }

    if let Some(environment) = &request.environment {
        agent.confinement.added_environment = environment.clone();
    }

    thaw(agent);
    let op_id = request.op_id;
    let refreshed = Refreshed { op_id, boot_id };
    connection.outbox.answer(&Response::Refreshed(refreshed));

    Ok(())
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn programs_are_listed_and_interpreters_are_not() {
        let mut sleep = Command::new("sleep").arg("60").spawn().unwrap();
        let program = i32::try_from(sleep.id()).unwrap();
        let interpreter = i32::try_from(std::process::id()).unwrap();

        // The kernel changes the name shortly after the start is reported.
        let deadline = Instant::now() + Duration::from_secs(20);
        while std::fs::read_to_string(format!("/proc/{program}/comm")).unwrap() != "sleep\n" {
            assert!(Instant::now() < deadline, "the program did not start");
            std::thread::yield_now();
        }

        let listed = describe_programs(&[interpreter, program], &[interpreter]);
        let none = describe_programs(&[interpreter], &[interpreter]);
        let many = describe_programs(&[program; 33], &[interpreter]);
        sleep.kill().unwrap();
        sleep.wait().unwrap();

        assert_eq!(listed.programs, [RunningProgram::new(program, b"sleep")]);
        assert_eq!(listed.program_count, 1);
        assert_eq!((none.programs.len(), none.program_count), (0, 0));
        assert_eq!((many.programs.len(), many.program_count), (32, 33));
    }
}
