use std::fs::File;
use std::io::{self, Seek, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use fumehood_image::copy_sparse;
use fumehood_qemu::{GuestMemory, Qmp, QmpError};
use fumehood_sys::host::{memory_file, seal, sealable_file};
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::error::{Error, ErrorKind};
use crate::vm::{Machine, Vm};

/// The state of a guest at one moment, from which others can begin. Cheap to clone: the memory is a
/// sealed file in memory, which nobody can change, and which all VMs that begin from it share.
#[derive(Debug, Clone)]
pub(crate) struct Snapshot(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    machine: Machine,
    ram: File,
    state: Vec<u8>,
    filled: watch::Receiver<Option<Result<(), String>>>,
}

impl Snapshot {
    /// A state that was saved: `fill` writes the memory to the file that it is given, on a thread of
    /// its own, while QEMU is being started.
    ///
    /// # Errors
    /// [`ErrorKind::Host`]: no memory file.
    pub(crate) fn load(
        machine: Machine,
        state: Vec<u8>,
        fill: impl FnOnce(&File) -> Result<(), String> + Send + 'static,
    ) -> Result<Self, Error> {
        let ram = sealable_file("guest-memory").map_err(no_file)?;
        let target = ram.try_clone().map_err(no_file)?;
        let (done, filled) = watch::channel(None);
        tokio::task::spawn_blocking(move || {
            let result = fill(&target).and_then(|()| seal(&target).map_err(|e| e.to_string()));
            let _ = done.send(Some(result));
        });
        Ok(Self(Arc::new(Inner {
            machine,
            ram,
            state,
            filled,
        })))
    }

    /// Saves the state of a guest that its agent has made ready. The guest stands still meanwhile, and
    /// goes on afterwards. `base` is what it began from itself: pages of that which it has not changed
    /// are taken from there.
    ///
    /// # Errors
    /// [`ErrorKind::Host`]: what could not be saved. [`ErrorKind::Lost`]: QEMU did not go on.
    pub(crate) async fn take(
        vm: &Vm,
        machine: Machine,
        base: Option<&Self>,
    ) -> Result<Self, Error> {
        let failed = |e: QmpError| {
            Error::new(
                ErrorKind::Host,
                format!("the guest's state cannot be saved: {e}"),
            )
        };
        let qmp = vm.qmp().map_err(failed)?;
        qmp.execute("stop", Value::Null).await.map_err(failed)?;
        let saved = save(qmp, vm.process_id(), machine, base).await;
        let went_on = qmp.execute("cont", Value::Null).await;
        let snapshot = saved?;
        went_on.map_err(|e| {
            let message = format!("the guest did not go on after its state was saved: {e}");
            Error::new(ErrorKind::Lost, message)
        })?;
        Ok(snapshot)
    }

    /// Whether it is this very one.
    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// What it was saved on.
    pub(crate) fn machine(&self) -> &Machine {
        &self.0.machine
    }

    /// Bytes of memory that it holds.
    pub(crate) fn bytes(&self) -> u64 {
        use std::os::unix::fs::MetadataExt;
        self.0.ram.metadata().map_or(0, |m| m.blocks() * 512)
    }

    /// The guest's memory. Not to be read before [`ready`](Self::ready).
    pub(crate) fn ram(&self) -> &File {
        &self.0.ram
    }

    /// The devices' state.
    pub(crate) fn state(&self) -> &[u8] {
        &self.0.state
    }

    /// The memory, for a QEMU to inherit.
    ///
    /// # Errors
    /// [`ErrorKind::Host`].
    pub(crate) fn descriptor(&self) -> Result<OwnedFd, Error> {
        self.0.ram.try_clone().map(OwnedFd::from).map_err(no_file)
    }

    /// Waits until the memory is filled and sealed.
    ///
    /// # Errors
    /// [`ErrorKind::Damaged`]: it could not be read.
    pub(crate) async fn ready(&self) -> Result<(), Error> {
        let mut filled = self.0.filled.clone();
        let result = match filled.wait_for(Option::is_some).await {
            Ok(result) => result.clone().unwrap_or(Ok(())),
            Err(_) => Err("its reader ended".into()),
        };
        result.map_err(|why| {
            let message = format!("the memory of a template cannot be read: {why}");
            Error::new(ErrorKind::Damaged, message)
        })
    }

    /// A fresh descriptor of the devices' state, at its beginning.
    ///
    /// # Errors
    /// The operating system's.
    pub(crate) fn state_file(&self) -> io::Result<File> {
        let mut file = memory_file("guest-state")?;
        file.write_all(&self.0.state)?;
        file.rewind()?;
        Ok(file)
    }
}

fn no_file(e: io::Error) -> Error {
    Error::new(
        ErrorKind::Host,
        format!("no file in memory for a guest's memory: {e}"),
    )
}

/// Saves what a guest that stands still holds.
async fn save(
    qmp: &Qmp,
    process: u32,
    machine: Machine,
    base: Option<&Snapshot>,
) -> Result<Snapshot, Error> {
    let state = device_state(qmp).await?;
    if let Some(base) = base {
        base.ready().await?;
    }
    let (base, bytes) = (base.cloned(), machine.memory_bytes());
    let copying = tokio::task::spawn_blocking(move || -> Result<File, Error> {
        let memory = GuestMemory::of(process, bytes)
            .map_err(|e| Error::new(ErrorKind::Host, format!("no state can be saved here: {e}")))?;
        copy(&memory, bytes, base.as_ref()).map_err(|e| {
            Error::new(
                ErrorKind::Host,
                format!("a guest's memory cannot be copied: {e}"),
            )
        })
    });
    let ram = copying.await.map_err(|e| {
        Error::new(
            ErrorKind::Host,
            format!("the copy of a guest's memory failed: {e}"),
        )
    })??;
    let (_, filled) = watch::channel(Some(Ok(())));
    Ok(Snapshot(Arc::new(Inner {
        machine,
        ram,
        state,
        filled,
    })))
}

/// A sealed file of all that the guest's memory holds.
fn copy(memory: &GuestMemory, bytes: u64, base: Option<&Snapshot>) -> io::Result<File> {
    let ram = sealable_file("guest-memory")?;
    ram.set_len(bytes)?;
    if let Some(base) = base {
        copy_sparse(base.ram(), &ram).map_err(io::Error::other)?;
    }
    memory.copy_own_pages(&ram, base.is_none())?;
    seal(&ram)?;
    Ok(ram)
}

/// The state of all devices, without the memory: some 12 KB.
async fn device_state(qmp: &Qmp) -> Result<Vec<u8>, Error> {
    let failed = |e: &dyn std::fmt::Display| {
        Error::new(
            ErrorKind::Host,
            format!("the devices' state cannot be saved: {e}"),
        )
    };
    let mut file = memory_file("device-state").map_err(|e| failed(&e))?;
    // QEMU takes only a descriptor that is open for writing alone.
    let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file));
    let write_only = File::options()
        .write(true)
        .open(path)
        .map_err(|e| failed(&e))?;
    let set = qmp
        .begin_with_fd("add-fd", Value::Null, write_only.as_fd())
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
    io::Read::read_to_end(&mut file, &mut state).map_err(|e| failed(&e))?;
    if state.len() < LEAST_STATE {
        return Err(failed(&"QEMU wrote next to nothing"));
    }
    Ok(state)
}

/// Bytes that the state of a machine with a processor has at least.
const LEAST_STATE: usize = 1024;
