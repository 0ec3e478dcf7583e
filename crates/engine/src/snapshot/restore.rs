use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use fumehood_protocol::PROTOCOL_VERSION;
use fumehood_qemu::{Pending, Qmp, QmpError};
use serde_json::{Value, json};

use super::state::Snapshot;
use crate::agent::GuestInit;
use crate::error::{Error, ErrorKind};
use crate::vm::{StartedVm, Vm, VmFactory, handshake_after_boot, handshake_after_restore};

/// A QEMU process that waits for the state of a guest. It has inherited the memory of a snapshot.
#[derive(Debug)]
pub(crate) struct WaitingProcess {
    started: StartedVm,
    /// The descriptor of the snapshot's memory in QEMU.
    memory: RawFd,
}

impl WaitingProcess {
    /// Starts a process for a snapshot.
    ///
    /// # Errors
    /// Returns [`ErrorKind::Host`].
    pub(crate) async fn start(factory: &VmFactory, snapshot: &Snapshot) -> Result<Self, Error> {
        let descriptor = OwnedFd::from(snapshot.ram().await?);
        let memory = descriptor.as_raw_fd();
        let started = factory
            .start_waiting(snapshot.machine(), descriptor)
            .await?;

        Ok(Self { started, memory })
    }

    /// Restores the snapshot that it was started for, and greets its agent in this version of the protocol.
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

        // Send the state to QEMU.
        let Self { started, memory } = self;
        let commands = match started.vm.qmp() {
            Ok(qmp) => send_restore_commands(qmp, memory, snapshot).await,
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
    memory: RawFd,
    snapshot: &Snapshot,
) -> Result<Vec<Pending>, QmpError> {
    let state = snapshot.state_file().map_err(|_| QmpError::Closed)?;
    // Mapped privately: the guest's writes stay in this QEMU.
    let backend = json!({
        "qom-type": "memory-backend-file", "id": "mem", "size": snapshot.machine().memory_bytes(),
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
