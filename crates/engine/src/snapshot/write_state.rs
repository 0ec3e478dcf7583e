//! Writing the states of guests to disk.

use std::io;

use fumehood_image::{
    NeededFile, PageWriter, ProcessSaver, SavedStates, StateSummary, StateToSave,
};
use fumehood_qemu::{GuestMemory, MemoryError, QmpError};
use serde_json::Value;

use super::state::{Snapshot, blocking, device_state, guest_range};
use super::state_process;
use crate::error::{Error, ErrorKind};
use crate::vm::{Layer, Machine, Vm};

/// The parts that are written to disk besides the state of the machine.
#[derive(Debug)]
pub(crate) struct StateRecord {
    pub(crate) states: SavedStates,
    pub(crate) label: String,
    /// The root file system of the guest.
    pub(crate) rootfs: Layer,
    pub(crate) description: Value,
    /// Whether QEMU itself is saved as well, if that is possible.
    pub(crate) with_process: bool,
}

/// Stops a guest whose agent is quiesced and writes its state, as the pages that differ from its template. The guest stays
/// stopped.
///
/// # Errors
/// Returns the store's error, and [`ErrorKind::Host`] if the state cannot be read.
pub(crate) async fn write_stopped(
    vm: &Vm,
    machine: &Machine,
    base: Option<&Snapshot>,
    record: StateRecord,
) -> Result<Result<StateSummary, fumehood_image::Error>, Error> {
    let failed = |e: QmpError| Error::new(ErrorKind::Host, format!("cannot stop the guest: {e}"));
    let qmp = vm.qmp().map_err(failed)?;
    qmp.execute("stop", Value::Null).await.map_err(failed)?;
    let devices = device_state(qmp).await?;
    if let Some(base) = base {
        base.ready().await?;
    }

    // QEMU stands still while its memory is read.
    let (machine, base, pid) = (machine.clone(), base.cloned(), vm.process_id());
    let passed = vm.passed().clone();
    let writing = move || {
        let base = base.as_ref();
        let range = guest_range(pid, machine.memory_bytes(), base)?;
        let memory = GuestMemory::open(pid, range)?;
        let mut pages = memory.private_pages()?;
        for range in base.map_or(Ok(Vec::new()), Snapshot::changed_ranges)? {
            pages.add(range);
        }

        let source = |writer: &mut PageWriter<'_>| {
            memory.read_pages(&pages, |offset, run| writer.push(offset, run))
        };
        let process: ProcessSaver<'_> =
            Box::new(|target| state_process::save(pid, range, &passed, base, &target));
        let process = record.with_process.then_some(process);
        let bytes = pages.bytes();
        Ok::<_, MemoryError>(write(
            &machine, base, &devices, bytes, record, process, source,
        ))
    };
    blocking(writing).await?.map_err(|e| {
        let message = format!("this host does not support saving states: {e}");
        Error::new(ErrorKind::Host, message)
    })
}

/// Writes a state that is in memory.
///
/// # Errors
/// Returns the store's error, and [`ErrorKind::Host`].
pub(crate) async fn write_checkpoint(
    snapshot: &Snapshot,
    record: StateRecord,
) -> Result<Result<StateSummary, fumehood_image::Error>, Error> {
    snapshot.ready().await?;
    let snapshot = snapshot.clone();
    let writing = move || {
        let source = |writer: &mut PageWriter<'_>| {
            snapshot.read_changed_pages(|offset, run| writer.push(offset, run))
        };
        let ranges = snapshot.changed_ranges()?;
        let bytes = ranges.iter().map(|range| range.end - range.start).sum();
        let (machine, devices) = (snapshot.machine(), snapshot.state());
        Ok::<_, io::Error>(write(
            machine,
            Some(&snapshot),
            devices,
            bytes,
            record,
            None,
            source,
        ))
    };
    blocking(writing).await?.map_err(|e| {
        let message = format!("cannot read the memory of a checkpoint: {e}");
        Error::new(ErrorKind::Host, message)
    })
}

fn write(
    machine: &Machine,
    base: Option<&Snapshot>,
    devices: &[u8],
    max_data_bytes: u64,
    record: StateRecord,
    process: Option<ProcessSaver<'_>>,
    source: impl FnOnce(&mut PageWriter<'_>) -> io::Result<()>,
) -> Result<StateSummary, fumehood_image::Error> {
    let template = base.and_then(Snapshot::template);
    let state = StateToSave {
        label: &record.label,
        memory_bytes: machine.memory_bytes(),
        max_data_bytes,
        template: template.map(super::TemplateMemory::needed),
        rootfs: needed(&record.rootfs),
        layer: machine.shape.layer.as_ref().map(needed),
        devices,
        description: record.description,
        process,
    };
    record.states.save(state, source)
}

fn needed(disk: &Layer) -> NeededFile<'_> {
    NeededFile {
        file: disk.file(),
        sha256: disk.digest(),
    }
}
