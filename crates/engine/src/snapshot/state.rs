use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;

use fumehood_image::copy_sparse;
use fumehood_qemu::{GuestMemory, ImageError, ProcessToSave, Qmp, QmpError, SavedProcess};
use fumehood_sys::host::{memory_file, seal, sealable_file};
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::error::{Error, ErrorKind};
use crate::host::Accelerator;
use crate::vm::{Machine, Vm};

/// The saved state of a guest, from which other guests are restored. Cheap to clone: the memory is a sealed file in
/// memory, which cannot be changed and is shared by all VMs that were restored from it.
#[derive(Debug, Clone)]
pub(crate) struct Snapshot(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    machine: Machine,
    ram: File,
    state: Vec<u8>,
    filled: watch::Receiver<Option<Result<(), String>>>,
    /// QEMU itself with the code that it has translated, if it could be saved.
    process: Option<SavedProcess>,
}

/// Minimum size of the devices' state of a machine, in bytes.
const MIN_STATE_BYTES: usize = 1024;

impl Snapshot {
    /// Loads a stored state. `fill` writes the memory to the given file on a separate thread, while QEMU is being
    /// started.
    ///
    /// # Errors
    /// Returns [`ErrorKind::Host`] if no memory file can be created.
    pub(crate) fn load(
        machine: Machine,
        state: Vec<u8>,
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

        Ok(Self(Arc::new(Inner {
            machine,
            ram,
            state,
            filled,
            process: None,
        })))
    }

    /// Takes a state whose QEMU was saved, with the guest's memory.
    pub(crate) fn hot(machine: Machine, ram: File, process: SavedProcess) -> Self {
        let (_, filled) = watch::channel(Some(Ok(())));
        Self(Arc::new(Inner {
            machine,
            ram,
            state: Vec::new(),
            filled,
            process: Some(process),
        }))
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
    ) -> Result<Self, Error> {
        let failed = |e: QmpError| {
            let message = format!("cannot save the guest's state: {e}");
            Error::new(ErrorKind::Host, message)
        };

        let qmp = vm.qmp().map_err(failed)?;
        qmp.execute("stop", Value::Null).await.map_err(failed)?;
        let saved = save(vm, qmp, machine, base).await;

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

    /// Returns the memory that the snapshot takes, in bytes.
    pub(crate) fn bytes(&self) -> u64 {
        use std::os::unix::fs::MetadataExt;
        self.0.ram.metadata().map_or(0, |m| m.blocks() * 512)
    }

    /// Returns the guest's memory. It must not be read before [`ready`](Self::ready).
    pub(crate) fn ram(&self) -> &File {
        &self.0.ram
    }

    /// Returns the QEMU process that was saved with the state.
    pub(crate) fn process(&self) -> Option<&SavedProcess> {
        self.0.process.as_ref()
    }

    /// Returns the devices' state.
    pub(crate) fn state(&self) -> &[u8] {
        &self.0.state
    }

    /// Duplicates the descriptor of the memory, for QEMU to inherit.
    ///
    /// # Errors
    /// Returns [`ErrorKind::Host`].
    pub(crate) fn descriptor(&self) -> Result<OwnedFd, Error> {
        self.0.ram.try_clone().map(OwnedFd::from).map_err(no_file)
    }

    /// Waits until the memory is filled and sealed.
    ///
    /// # Errors
    /// Returns [`ErrorKind::Damaged`] if it cannot be read.
    pub(crate) async fn ready(&self) -> Result<(), Error> {
        let mut filled = self.0.filled.clone();
        let result = match filled.wait_for(Option::is_some).await {
            Ok(result) => result.clone().unwrap_or(Ok(())),
            Err(_) => Err("its reader ended".into()),
        };

        result.map_err(|why| {
            let message = format!("cannot read the memory of a template: {why}");
            Error::new(ErrorKind::Damaged, message)
        })
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

fn no_file(e: io::Error) -> Error {
    let message = format!("cannot create a file in memory for a guest's memory: {e}");
    Error::new(ErrorKind::Host, message)
}

/// Saves the state of a guest that is stopped.
async fn save(
    vm: &Vm,
    qmp: &Qmp,
    machine: Machine,
    base: Option<&Snapshot>,
) -> Result<Snapshot, Error> {
    let state = device_state(qmp).await?;
    if let Some(base) = base {
        base.ready().await?;
    }

    // Copy the memory on a thread for blocking work. QEMU stands still.
    let (base, bytes) = (base.cloned(), machine.memory_bytes());
    let is_emulated = machine.accelerator == Accelerator::Tcg;
    let (pid, passed) = (vm.process_id(), vm.passed().to_vec());
    let copying = tokio::task::spawn_blocking(move || -> Result<_, Error> {
        let memory = GuestMemory::open(pid, bytes).map_err(|e| {
            let message = format!("this host does not support saving states: {e}");
            Error::new(ErrorKind::Host, message)
        })?;

        let ram = copy_memory(&memory, bytes, base.as_ref()).map_err(|e| {
            let message = format!("cannot copy a guest's memory: {e}");
            Error::new(ErrorKind::Host, message)
        })?;

        // Only an emulator has translated code.
        let process = is_emulated.then(|| {
            let process = ProcessToSave {
                pid,
                memory_bytes: bytes,
                passed: &passed,
                base: base.as_ref().and_then(Snapshot::process),
            };
            save_process(process, &ram)
        });
        Ok((ram, process.flatten()))
    });

    let (ram, process) = copying.await.map_err(|e| {
        let message = format!("the task that copies a guest's memory failed: {e}");
        Error::new(ErrorKind::Host, message)
    })??;

    let (_, filled) = watch::channel(Some(Ok(())));

    Ok(Snapshot(Arc::new(Inner {
        machine,
        ram,
        state,
        filled,
        process,
    })))
}

/// Saves QEMU itself. Without it, the state can be restored all the same.
fn save_process(process: ProcessToSave<'_>, ram: &File) -> Option<SavedProcess> {
    let save = || {
        let pages = memory_file("process-pages")?;
        SavedProcess::save(process, ram.try_clone()?, pages)
    };
    save()
        .inspect_err(|error: &ImageError| tracing::warn!(%error, "saving a process image failed"))
        .ok()
}

/// Copies the guest's memory into a sealed file.
fn copy_memory(memory: &GuestMemory, bytes: u64, base: Option<&Snapshot>) -> io::Result<File> {
    let ram = sealable_file("guest-memory")?;
    ram.set_len(bytes)?;

    if let Some(base) = base {
        copy_sparse(base.ram(), &ram).map_err(io::Error::other)?;
    }

    memory.copy_private_pages(&ram, base.is_none())?;
    seal(&ram)?;
    Ok(ram)
}

/// Returns the state of all devices without the memory: some 12 KB.
async fn device_state(qmp: &Qmp) -> Result<Vec<u8>, Error> {
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
