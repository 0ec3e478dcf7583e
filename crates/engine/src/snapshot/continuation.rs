use std::time::{Duration, Instant};

use serde_json::Value;

use super::state::Snapshot;
use crate::agent::GuestInit;
use crate::error::{Error, ErrorKind};
use crate::vm::{StartedVm, VmFactory, handshake_after_restore};

/// Continues a guest in a new process of the QEMU that was saved with its state.
///
/// # Errors
/// Returns [`ErrorKind::Boot`] with a diagnosis, and [`ErrorKind::Host`].
pub(crate) async fn continue_guest(
    factory: &VmFactory,
    snapshot: &Snapshot,
    init: &GuestInit,
    deadline: Duration,
) -> Result<StartedVm, Error> {
    let start = Instant::now();
    let refresh = factory.new_refresh(init)?;
    let process = snapshot
        .process()
        .ok_or_else(|| Error::new(ErrorKind::Boot, "the snapshot has no process image"))?;
    let started = factory
        .continue_process(snapshot.machine(), process)
        .await?;

    // The agent's answer implies that QEMU has continued: do not wait for its own.
    let resumed = match started.vm.qmp() {
        Ok(qmp) => qmp.submit("cont", Value::Null).await.map(drop),
        Err(error) => Err(error),
    };
    if let Err(error) = resumed {
        let diagnosis = started.vm.diagnose().await;
        let message = format!("a process image did not continue: {error}; {diagnosis}");
        return Err(Error::new(ErrorKind::Boot, message));
    }

    let mut ready = handshake_after_restore(started, &refresh, deadline).await?;
    ready.vm.start = start.elapsed();
    Ok(ready)
}
