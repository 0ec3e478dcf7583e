use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use fumehood_protocol::PROTOCOL_VERSION;
use fumehood_qemu::{Pending, Qmp, QmpError};
use serde_json::{Value, json};

use super::state::Snapshot;
use crate::agent::GuestInit;
use crate::error::{Error, ErrorKind};
use crate::vm::{Machine, StartedVm, Vm, VmFactory, handshake_after_boot, handshake_after_restore};

/// A QEMU process that waits for the state of a guest. It has inherited the memory of some snapshots, and any one of
/// them can be restored into it.
#[derive(Debug)]
pub(crate) struct StandbyProcess {
    started: StartedVm,
    machine: Machine,
    /// The snapshots, and the descriptor of each one's memory in QEMU.
    memories: Vec<(Snapshot, RawFd)>,
}

impl StandbyProcess {
    /// Starts a process for the snapshots of this machine.
    ///
    /// # Errors
    /// Returns [`ErrorKind::Host`].
    pub(crate) async fn start(
        factory: &VmFactory,
        machine: Machine,
        snapshots: &[Snapshot],
    ) -> Result<Self, Error> {
        let matching = snapshots.iter().filter(|s| *s.machine() == machine);
        let (mut memories, mut descriptors) = (Vec::new(), Vec::<OwnedFd>::new());

        for snapshot in matching {
            let descriptor = OwnedFd::from(snapshot.ram().await?);
            memories.push((snapshot.clone(), descriptor.as_raw_fd()));
            descriptors.push(descriptor);
        }

        let started = factory.start_waiting(&machine, descriptors).await?;

        Ok(Self {
            started,
            machine,
            memories,
        })
    }

    /// Returns whether this snapshot can be restored into the process.
    pub(crate) fn fits(&self, snapshot: &Snapshot) -> bool {
        self.machine == *snapshot.machine() && self.memory(snapshot).is_some()
    }

    /// Returns whether QEMU's monitor is connected.
    pub(crate) fn is_alive(&self) -> bool {
        self.started.vm.qmp().is_ok_and(Qmp::is_open)
    }

    /// Waits until QEMU has finished its start.
    ///
    /// # Errors
    /// Returns [`ErrorKind::Boot`].
    pub(crate) async fn wait_until_up(&self) -> Result<(), Error> {
        let status = match self.started.vm.qmp() {
            Ok(qmp) => qmp.execute("query-status", Value::Null).await.map(drop),
            Err(error) => Err(error),
        };
        status.map_err(|e| Error::new(ErrorKind::Boot, format!("QEMU did not start: {e}")))
    }

    fn memory(&self, snapshot: &Snapshot) -> Option<RawFd> {
        let known = self.memories.iter().find(|(known, _)| known.is(snapshot));
        known.map(|(_, fd)| *fd)
    }

    /// Restores a snapshot, and greets its agent in this version of the protocol.
    ///
    /// # Errors
    /// Returns [`ErrorKind::Boot`] with a diagnosis, and [`ErrorKind::Damaged`] if the snapshot cannot be read.
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
            let message = "this QEMU process has not inherited the memory of the snapshot";
            return Err(Error::new(ErrorKind::Boot, message));
        };

        // Send the state to QEMU.
        let Self {
            started, machine, ..
        } = self;

        let commands = match started.vm.qmp() {
            Ok(qmp) => send_restore_commands(qmp, &machine, memory, snapshot).await,
            Err(error) => Err(error),
        };

        let commands = match commands {
            Ok(commands) => commands,
            Err(error) => return Err(restore_error(started.vm, &error).await),
        };

        // The agent's answer implies that QEMU's commands succeeded: do not wait for those.
        let refresh = factory.new_refresh(init)?;
        // States are saved in a conversation of the current version; another version needs a new greeting.
        let ready = if protocol == PROTOCOL_VERSION {
            handshake_after_restore(started, &refresh, deadline).await
        } else {
            handshake_after_boot(started, &refresh, protocol, deadline).await
        };

        match ready {
            Ok(mut ready) => {
                ready.vm.start = start.elapsed();
                Ok(ready)
            }
            Err(error) => Err(add_qemu_error(error, commands).await),
        }
    }
}

/// Sends all commands at once; QEMU executes them in order.
async fn send_restore_commands(
    qmp: &Qmp,
    machine: &Machine,
    memory: RawFd,
    snapshot: &Snapshot,
) -> Result<Vec<Pending>, QmpError> {
    let state = snapshot.state_file().map_err(|_| QmpError::Closed)?;
    // Mapped privately: the guest's writes stay in this QEMU.
    let backend = json!({
        "qom-type": "memory-backend-file", "id": "mem", "size": machine.memory_bytes(),
        "mem-path": format!("/proc/self/fd/{memory}"), "share": false,
    });

    let property = json!({ "path": "/machine", "property": "memory-backend", "value": "mem" });

    Ok(vec![
        qmp.submit("object-add", backend).await?,
        qmp.submit("qom-set", property).await?,
        qmp.submit("x-exit-preconfig", Value::Null).await?,
        qmp.submit_with_fd("getfd", json!({ "fdname": "state" }), state.as_fd())
            .await?,
        qmp.submit("migrate-incoming", json!({ "uri": "fd:state" }))
            .await?,
    ])
}

async fn restore_error(vm: Vm, error: &QmpError) -> Error {
    let diagnosis = vm.diagnose().await;
    let message = format!("QEMU did not accept a saved state: {error}; {diagnosis}");
    Error::new(ErrorKind::Boot, message)
}

/// Adds the error of QEMU's first failed command.
async fn add_qemu_error(error: Error, commands: Vec<Pending>) -> Error {
    for command in commands {
        if let Err(reason @ QmpError::Rejected { .. }) = command.answer().await {
            return Error::new(error.kind(), format!("{error}; {reason}"));
        }
    }
    error
}
