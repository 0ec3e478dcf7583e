use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use fumehood_protocol::PROTOCOL_VERSION;
use fumehood_qemu::{Pending, Qmp, QmpError};
use serde_json::{Value, json};

use super::state::Snapshot;
use crate::agent::GuestInit;
use crate::error::{Error, ErrorKind};
use crate::vm::{Machine, StartedVm, Vm, VmFactory, handshake_after_boot, handshake_after_restore};

/// A QEMU that waits for the state of a guest. It was given the memory of some snapshots when it was
/// started, and can take any one of them.
#[derive(Debug)]
pub(crate) struct StandbyProcess {
    started: StartedVm,
    machine: Machine,
    /// What it can take, and the descriptor of that memory in it.
    memories: Vec<(Snapshot, RawFd)>,
}

impl StandbyProcess {
    /// Starts one.
    ///
    /// # Errors
    /// [`ErrorKind::Host`].
    pub(crate) async fn start(
        factory: &VmFactory,
        machine: Machine,
        snapshots: &[Snapshot],
    ) -> Result<Self, Error> {
        let of_it = snapshots.iter().filter(|s| *s.machine() == machine);
        let (mut memories, mut descriptors) = (Vec::new(), Vec::<OwnedFd>::new());
        for snapshot in of_it {
            let descriptor = snapshot.descriptor()?;
            memories.push((snapshot.clone(), descriptor.as_raw_fd()));
            descriptors.push(descriptor);
        }
        let started = factory.wait(&machine, descriptors).await?;
        Ok(Self {
            started,
            machine,
            memories,
        })
    }

    /// Whether it can take this state.
    pub(crate) fn fits(&self, snapshot: &Snapshot) -> bool {
        self.machine == *snapshot.machine() && self.memory(snapshot).is_some()
    }

    /// Whether its QEMU can still be asked for anything.
    pub(crate) fn is_alive(&self) -> bool {
        self.started.vm.qmp().is_ok_and(Qmp::is_open)
    }

    /// Waits until QEMU is up: what it does at its start is then done.
    ///
    /// # Errors
    /// [`ErrorKind::Boot`].
    pub(crate) async fn wait_until_up(&self) -> Result<(), Error> {
        let asked = match self.started.vm.qmp() {
            Ok(qmp) => qmp.execute("query-status", Value::Null).await.map(drop),
            Err(error) => Err(error),
        };
        asked.map_err(|e| Error::new(ErrorKind::Boot, format!("QEMU did not start: {e}")))
    }

    fn memory(&self, snapshot: &Snapshot) -> Option<RawFd> {
        let known = self.memories.iter().find(|(known, _)| known.is(snapshot));
        known.map(|(_, fd)| *fd)
    }

    /// Lets the guest go on from this state, and greets its agent in this version of the protocol.
    ///
    /// # Errors
    /// [`ErrorKind::Boot`], with what is known; [`ErrorKind::Damaged`] when the snapshot is.
    pub(crate) async fn restore(
        self,
        snapshot: &Snapshot,
        factory: &VmFactory,
        init: &GuestInit,
        protocol: u32,
        deadline: Duration,
    ) -> Result<StartedVm, Error> {
        let start = Instant::now();
        snapshot.ready().await?;
        let Some(memory) = self.memory(snapshot) else {
            let message = "this QEMU was not given the memory that it should take";
            return Err(Error::new(ErrorKind::Boot, message));
        };
        let Self {
            started, machine, ..
        } = self;
        let commands = match started.vm.qmp() {
            Ok(qmp) => send_restore_commands(qmp, &machine, memory, snapshot).await,
            Err(error) => Err(error),
        };
        let commands = match commands {
            Ok(commands) => commands,
            Err(error) => return Err(refusal_error(started.vm, &error).await),
        };
        // The agent's answer is waited for at once: it says all that QEMU's answers would say.
        let fresh = factory.new_refresh(init)?;
        // States are saved in a conversation of this version; another one needs a greeting of its own.
        let met = match protocol {
            PROTOCOL_VERSION => handshake_after_restore(started, &fresh, deadline).await,
            _ => handshake_after_boot(started, &fresh, protocol, deadline).await,
        };
        match met {
            Ok(mut met) => {
                met.vm.start = start.elapsed();
                Ok(met)
            }
            Err(error) => Err(add_qemu_error(error, commands).await),
        }
    }
}

/// Sends all commands at once; QEMU takes them in order.
async fn send_restore_commands(
    qmp: &Qmp,
    machine: &Machine,
    memory: RawFd,
    snapshot: &Snapshot,
) -> Result<Vec<Pending>, QmpError> {
    let state = snapshot.state_file().map_err(|_| QmpError::Closed)?;
    // Mapped privately: what the guest writes stays with this QEMU.
    let backend = json!({
        "qom-type": "memory-backend-file", "id": "mem", "size": machine.memory_bytes(),
        "mem-path": format!("/proc/self/fd/{memory}"), "share": false,
    });
    let property = json!({ "path": "/machine", "property": "memory-backend", "value": "mem" });
    Ok(vec![
        qmp.begin("object-add", backend).await?,
        qmp.begin("qom-set", property).await?,
        qmp.begin("x-exit-preconfig", Value::Null).await?,
        qmp.begin_with_fd("getfd", json!({ "fdname": "state" }), state.as_fd())
            .await?,
        qmp.begin("migrate-incoming", json!({ "uri": "fd:state" }))
            .await?,
    ])
}

async fn refusal_error(vm: Vm, error: &QmpError) -> Error {
    let known = vm.diagnose().await;
    Error::new(
        ErrorKind::Boot,
        format!("QEMU did not take a saved state: {error}; {known}"),
    )
}

/// Adds QEMU's own words, where it refused something.
async fn add_qemu_error(error: Error, commands: Vec<Pending>) -> Error {
    for command in commands {
        if let Err(reason @ QmpError::Refused { .. }) = command.answer().await {
            return Error::new(error.kind(), format!("{error}; {reason}"));
        }
    }
    error
}
