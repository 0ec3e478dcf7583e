use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use fumehood_image::{copy_sparse, data_ranges};
use fumehood_qemu::{
    GuestMemory, GuestPages, GuestRange, ImageError, MemoryError, ProcessToSave, Qmp, QmpError,
    SavedFile, SavedProcess,
};
use fumehood_sys::host::{memory_file, seal, sealable_file};
use serde_json::{Value, json};
use tokio::sync::{OnceCell, watch};

use super::template_memory::TemplateMemory;
use crate::error::{Error, ErrorKind};
use crate::host::Accelerator;
use crate::vm::{Machine, PassedIdentities, Vm};

/// The saved state of a guest, from which other guests are restored. Cheap to clone: the memory is in files that are not
/// changed any more, and is shared by all VMs that were restored from it.
#[derive(Debug, Clone)]
pub(crate) struct Snapshot(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    machine: Machine,
    /// The devices' state; empty in hot images, whose guests only continue.
    state: Vec<u8>,
    memory: Memory,
    /// The template that it, or a state before it, was restored from.
    template: Option<TemplateMemory>,
}

/// The memory of a saved guest.
#[derive(Debug)]
enum Memory {
    /// A sealed file in memory, which a QEMU can map as a whole.
    File {
        ram: File,
        filled: watch::Receiver<Option<Result<(), String>>>,
        /// The ranges that may differ from the template; none = unknown.
        changed: Option<Vec<Range<u64>>>,
    },
    /// Inside of QEMU, which was saved with the code that it has translated: changed pages over the files of its base.
    Process {
        process: SavedProcess,
        /// All of the guest's memory in one sealed file, if a QEMU has needed that.
        whole: OnceCell<File>,
    },
}

/// Whether QEMU itself is saved with the state of its guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WithProcess {
    /// Under software emulation, if that is possible.
    Yes,
    No,
}

/// Minimum size of the devices' state of a machine, in bytes.
const MIN_STATE_BYTES: usize = 1024;

impl Snapshot {
    /// Loads a stored state. `fill` writes the memory to the given file on a separate thread, while QEMU is being
    /// started. It differs from `template`, if there is one, in the ranges `changed`.
    ///
    /// # Errors
    /// Returns [`ErrorKind::Host`] if no memory file can be created.
    pub(crate) fn load(
        machine: Machine,
        state: Vec<u8>,
        template: Option<TemplateMemory>,
        changed: Vec<Range<u64>>,
        fill: impl FnOnce(&File) -> Result<(), String> + Send + 'static,
    ) -> Result<Self, Error> {
        let ram = sealable_file("guest-memory").map_err(no_file)?;
        let target = ram.try_clone().map_err(no_file)?;
        let (done, filled) = watch::channel(None);
        // Fill the memory while QEMU starts.
        tokio::task::spawn_blocking(move || {
            let result = fill(&target).and_then(|()| seal(&target).map_err(|e| e.to_string()));
            let _ = done.send(Some(result));
        });

        // If nothing is changed, QEMU maps a copy of the template.
        let template = match template {
            Some(template) if changed.is_empty() => {
                Some(template.with_copy(&ram).map_err(no_file)?)
            }
            other => other,
        };
        let memory = Memory::File {
            ram,
            filled,
            changed: Some(changed),
        };
        Ok(Self::new(machine, state, memory, template))
    }

    fn new(
        machine: Machine,
        state: Vec<u8>,
        memory: Memory,
        template: Option<TemplateMemory>,
    ) -> Self {
        Self(Arc::new(Inner {
            machine,
            state,
            memory,
            template,
        }))
    }

    /// Takes a state on disk whose QEMU was saved with it. If that cannot continue, it is restored from `devices`.
    pub(crate) fn with_process(
        machine: Machine,
        devices: Vec<u8>,
        process: SavedProcess,
        template: Option<TemplateMemory>,
    ) -> Self {
        Self::new(machine, devices, Memory::of_process(process), template)
    }

    /// Takes a guest that only continues in processes of its QEMU.
    pub(crate) fn hot(
        machine: Machine,
        process: SavedProcess,
        template: Option<TemplateMemory>,
    ) -> Self {
        Self::new(machine, Vec::new(), Memory::of_process(process), template)
    }

    /// Returns the template that it, or a state before it, was restored from.
    pub(crate) fn template(&self) -> Option<&TemplateMemory> {
        self.0.template.as_ref()
    }

    /// Saves the state of a guest whose agent is quiesced. The guest is stopped meanwhile, and continues afterwards.
    /// `base` is the snapshot that it was restored from: pages that it has not changed are copied from there.
    ///
    /// # Errors
    /// Returns [`ErrorKind::Host`] if the state cannot be saved, and [`ErrorKind::Lost`] if the guest does not
    /// continue.
    pub(crate) async fn take(
        vm: &Vm,
        machine: Machine,
        base: Option<&Self>,
        with_process: WithProcess,
    ) -> Result<Self, Error> {
        let failed = |e: QmpError| {
            let message = format!("cannot save the guest's state: {e}");
            Error::new(ErrorKind::Host, message)
        };

        let qmp = vm.qmp().map_err(failed)?;
        qmp.execute("stop", Value::Null).await.map_err(failed)?;
        let saved = save(vm, qmp, machine, base, with_process).await;

        // The guest continues even if its state was not saved.
        let continued = qmp.execute("cont", Value::Null).await;
        let snapshot = saved?;
        continued.map_err(|e| {
            let message = format!("the guest did not continue after its state was saved: {e}");
            Error::new(ErrorKind::Lost, message)
        })?;

        Ok(snapshot)
    }

    /// Returns the machine of the guest.
    pub(crate) fn machine(&self) -> &Machine {
        &self.0.machine
    }

    /// Returns the memory that the snapshot takes besides that of its base, in bytes.
    pub(crate) fn bytes(&self) -> u64 {
        match &self.0.memory {
            Memory::File { ram, .. } => ram.metadata().map_or(0, |m| m.blocks() * 512),
            Memory::Process { process, .. } => process.changed_bytes(),
        }
    }

    /// Returns the QEMU process that was saved with the state.
    pub(crate) fn process(&self) -> Option<&SavedProcess> {
        match &self.0.memory {
            Memory::File { .. } => None,
            Memory::Process { process, .. } => Some(process),
        }
    }

    /// Returns the devices' state.
    pub(crate) fn state(&self) -> &[u8] {
        &self.0.state
    }

    /// Returns a file with the guest's memory, for QEMU to map. It must not be read before [`ready`](Self::ready).
    ///
    /// # Errors
    /// Returns [`ErrorKind::Host`].
    pub(crate) async fn ram(&self) -> Result<File, Error> {
        let file = match &self.0.memory {
            Memory::File { ram, .. } => ram,
            Memory::Process { process, whole } => {
                let copy = || {
                    let bytes = self.0.machine.memory_bytes();
                    let process = process.clone();
                    let copying = move || whole_memory(bytes, |ram| process.copy_guest_memory(ram));
                    async { blocking(copying).await?.map_err(not_copied) }
                };
                whole.get_or_try_init(copy).await?
            }
        };
        file.try_clone().map_err(no_file)
    }

    /// Waits until the memory is filled and sealed.
    ///
    /// # Errors
    /// Returns [`ErrorKind::Damaged`] if it cannot be read.
    pub(crate) async fn ready(&self) -> Result<(), Error> {
        let Memory::File { filled, .. } = &self.0.memory else {
            return Ok(());
        };
        let mut filled = filled.clone();
        let result = match filled.wait_for(Option::is_some).await {
            Ok(result) => result.clone().unwrap_or(Ok(())),
            Err(_) => Err("its reader ended".into()),
        };

        result.map_err(|why| {
            let message = format!("cannot read the memory of a guest: {why}");
            Error::new(ErrorKind::Damaged, message)
        })
    }

    /// Returns the files that a process which was restored from this state may map.
    pub(super) fn mapped_files(&self) -> io::Result<Vec<SavedFile>> {
        match &self.0.memory {
            Memory::File { ram, .. } => Ok(vec![SavedFile::new(ram.try_clone()?, None)?]),
            Memory::Process { process, .. } => Ok(process.files().to_vec()),
        }
    }

    /// Returns the ranges of the guest's memory that may differ from the template, or from zeros if there is none.
    pub(super) fn changed_ranges(&self) -> io::Result<Vec<Range<u64>>> {
        let template = self.template();
        match (&self.0.memory, template) {
            (
                Memory::File {
                    changed: Some(changed),
                    ..
                },
                Some(_),
            ) => Ok(changed.clone()),
            (Memory::File { ram, .. }, template) => {
                let mut ranges = data_ranges(ram)?;
                ranges.extend(template.map_or(Ok(Vec::new()), TemplateMemory::data_ranges)?);
                ranges.sort_by_key(|range| range.start);
                Ok(ranges)
            }
            (Memory::Process { process, .. }, template) => {
                let is_changed = |file: &SavedFile| template.is_none_or(|t| !t.is_copy(file));
                Ok(process.guest_ranges(is_changed))
            }
        }
    }

    /// Passes all pages of the guest's memory that may differ from the template to `each`.
    pub(super) fn read_changed_pages(
        &self,
        mut each: impl FnMut(u64, &[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        match &self.0.memory {
            Memory::Process { process, .. } => {
                let template = self.template();
                let is_changed = |file: &SavedFile| template.is_none_or(|t| !t.is_copy(file));
                process.read_guest_memory(is_changed, each)
            }
            Memory::File { ram, .. } => {
                let mut pages = GuestPages::none(self.0.machine.memory_bytes());
                for range in self.changed_ranges()? {
                    pages.add(range);
                }
                pages.read_from(ram, &mut each)
            }
        }
    }

    /// Copies the guest's memory to an empty file.
    fn copy_memory(&self, to: &File) -> io::Result<()> {
        match &self.0.memory {
            Memory::File { ram, .. } => copy_sparse(ram, to).map(drop).map_err(io::Error::other),
            Memory::Process { process, .. } => process.copy_guest_memory(to),
        }
    }

    /// Returns a new file with the devices' state, positioned at its start.
    ///
    /// # Errors
    /// Returns the operating system's error.
    pub(crate) fn state_file(&self) -> io::Result<File> {
        let mut file = memory_file("guest-state")?;
        file.write_all(&self.0.state)?;
        file.rewind()?;
        Ok(file)
    }
}

impl Memory {
    fn of_process(process: SavedProcess) -> Self {
        Self::Process {
            process,
            whole: OnceCell::new(),
        }
    }
}

fn no_file(e: io::Error) -> Error {
    let message = format!("cannot create a file in memory for a guest's memory: {e}");
    Error::new(ErrorKind::Host, message)
}

fn not_copied(e: io::Error) -> Error {
    let message = format!("cannot copy a guest's memory: {e}");
    Error::new(ErrorKind::Host, message)
}

/// Runs blocking work on a thread for it.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(work).await.map_err(|e| {
        let message = format!("the task that copies a guest's memory failed: {e}");
        Error::new(ErrorKind::Host, message)
    })
}

/// Creates a sealed file with the memory that `fill` writes.
fn whole_memory(bytes: u64, fill: impl FnOnce(&File) -> io::Result<()>) -> io::Result<File> {
    let ram = sealable_file("guest-memory")?;
    ram.set_len(bytes)?;
    fill(&ram)?;
    seal(&ram)?;
    Ok(ram)
}

/// Saves the state of a guest that is stopped.
async fn save(
    vm: &Vm,
    qmp: &Qmp,
    machine: Machine,
    base: Option<&Snapshot>,
    with_process: WithProcess,
) -> Result<Snapshot, Error> {
    let state = device_state(qmp).await?;
    if let Some(base) = base {
        base.ready().await?;
    }

    // QEMU stands still while it is read.
    let template = base.and_then(Snapshot::template).cloned();
    let (base, bytes) = (base.cloned(), machine.memory_bytes());
    // Only an emulator has translated code.
    let with_process = with_process == WithProcess::Yes && machine.accelerator == Accelerator::Tcg;
    let (pid, passed) = (vm.process_id(), vm.passed().clone());
    let copying = move || {
        let guest_memory = guest_range(pid, bytes, base.as_ref())?;

        if with_process {
            match save_process(pid, guest_memory, &passed, base.as_ref()) {
                Ok(process) => return Ok(Memory::of_process(process)),
                Err(error) => tracing::warn!(%error, "saving a process image failed"),
            }
        }

        let memory = GuestMemory::open(pid, guest_memory)?;
        let fill = |ram: &File| {
            if let Some(base) = &base {
                base.copy_memory(ram)?;
            }
            memory.copy_private_pages(ram, base.is_none()).map(drop)
        };
        let ram = whole_memory(bytes, fill)?;
        let (_, filled) = watch::channel(Some(Ok(())));
        Ok::<_, MemoryError>(Memory::File {
            ram,
            filled,
            changed: None,
        })
    };

    let memory = blocking(copying).await?.map_err(|e| {
        let message = format!("this host does not support saving states: {e}");
        Error::new(ErrorKind::Host, message)
    })?;
    Ok(Snapshot::new(machine, state, memory, template))
}

/// Finds the memory of a guest in its QEMU, which was restored from `base` or has continued from it. A QEMU that continued
/// has many mappings in its place.
pub(super) fn guest_range(
    pid: u32,
    bytes: u64,
    base: Option<&Snapshot>,
) -> Result<GuestRange, MemoryError> {
    GuestRange::find(pid, bytes).or_else(|error| {
        let process = base.and_then(Snapshot::process);
        process.map(SavedProcess::guest_memory).ok_or(error)
    })
}

/// Saves QEMU itself. Without it, the state can be restored all the same.
fn save_process(
    pid: u32,
    guest_memory: GuestRange,
    passed: &PassedIdentities,
    base: Option<&Snapshot>,
) -> Result<SavedProcess, ImageError> {
    let base = base.map(Snapshot::mapped_files).transpose()?;
    let process = ProcessToSave {
        pid,
        guest_memory,
        passed: &passed.kept,
        unneeded: &passed.read,
        base: base.as_deref().unwrap_or_default(),
        copied: &[],
        guest: None,
    };
    let pages = sealable_file("process-pages")?;
    let saved = SavedProcess::save(process, pages.try_clone()?)?;
    seal(&pages)?;
    Ok(saved)
}

/// Returns the state of all devices without the memory: some 12 KB.
pub(super) async fn device_state(qmp: &Qmp) -> Result<Vec<u8>, Error> {
    let failed = |e: &dyn std::fmt::Display| {
        let message = format!("cannot save the devices' state: {e}");
        Error::new(ErrorKind::Host, message)
    };

    // QEMU requires a descriptor that is open only for writing.
    let mut file = memory_file("device-state").map_err(|e| failed(&e))?;
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    let write_only = File::options()
        .write(true)
        .open(path)
        .map_err(|e| failed(&e))?;

    let set = qmp
        .submit_with_fd("add-fd", Value::Null, write_only.as_fd())
        .await
        .map_err(|e| failed(&e))?
        .answer()
        .await
        .map_err(|e| failed(&e))?["fdset-id"]
        .clone();

    let save = json!({ "filename": format!("/dev/fdset/{set}"), "live": false });
    let saved = qmp.execute("xen-save-devices-state", save).await;
    let removed = qmp.execute("remove-fd", json!({ "fdset-id": set })).await;
    saved.and(removed).map_err(|e| failed(&e))?;

    let mut state = Vec::new();
    file.rewind().map_err(|e| failed(&e))?;
    file.read_to_end(&mut state).map_err(|e| failed(&e))?;

    if state.len() < MIN_STATE_BYTES {
        return Err(failed(&"QEMU wrote almost nothing"));
    }

    Ok(state)
}
