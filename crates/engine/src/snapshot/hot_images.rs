use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use fumehood_image::{HotImage, HotImages as Shelf, Store, TemplateKey};
use fumehood_protocol::PROTOCOL_VERSION;
use fumehood_qemu::{GuestRange, IMAGE_VERSION, ProcessImage, SavedFile, SavedProcess};
use serde::{Deserialize, Serialize};

use super::continuation::continue_guest;
use super::restore::StandbyProcess;
use super::state::{Snapshot, WithProcess};
use super::template::{BuildResult, Templates};
use super::template_spec::TemplateSpec;
use super::warmup::{quiesce, refresh, run_first_program, run_primer};
use crate::agent::{Channel, GuestInit};
use crate::error::{Error, ErrorKind};
use crate::vm::{StartedVm, VmFactory};

/// How long an image is used. Its VMs share the addresses and canaries of their QEMU, so that what one of them learns by
/// breaking into its QEMU helps against the others for no longer than this.
const MAX_AGE: Duration = Duration::from_secs(6 * 60 * 60);

/// How long a missing image is not searched for again.
const MISSING_TIMEOUT: Duration = Duration::from_secs(1);

/// The hot images of one engine: QEMU processes that were saved after they had run programs, with the code that they
/// translated.
#[derive(Debug)]
pub(crate) struct HotImages {
    shelf: Shelf,
    /// The id of this boot of the host, and the build of its kernel: an image is of use until the next boot.
    host: Option<HostBoot>,
    slots: Mutex<HashMap<TemplateSpec, Slot>>,
}

#[derive(Debug)]
struct HostBoot {
    id: String,
    kernel: String,
}

#[derive(Debug)]
enum Slot {
    Ready {
        snapshot: Snapshot,
        expires: Instant,
    },
    /// There was none at that time.
    Missing(Instant),
}

/// The description of an image in the store.
#[derive(Debug, Serialize, Deserialize)]
struct Description {
    process: ProcessImage,
    guest_memory: GuestRange,
    /// The files that it maps besides its changed pages, in their order.
    files: Vec<MappedFile>,
}

/// A file that an image maps.
#[derive(Debug, Serialize, Deserialize)]
enum MappedFile {
    /// The memory of the template that it was created from.
    TemplateMemory,
    Library(Library),
}

/// A program or library that an image maps. It must not have changed.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Library {
    path: PathBuf,
    /// Device, inode, size in bytes, and the times of the last changes of contents and inode in nanoseconds.
    identity: (u64, u64, u64, i128, i128),
}

impl Library {
    fn of(path: &Path) -> std::io::Result<Self> {
        let metadata = path.metadata()?;
        let time = |seconds: i64, nanoseconds: i64| {
            i128::from(seconds) * 1_000_000_000 + i128::from(nanoseconds)
        };
        Ok(Self {
            path: path.to_path_buf(),
            identity: (
                metadata.dev(),
                metadata.ino(),
                metadata.size(),
                time(metadata.mtime(), metadata.mtime_nsec()),
                time(metadata.ctime(), metadata.ctime_nsec()),
            ),
        })
    }
}

impl HotImages {
    /// Opens the images of a store.
    pub(crate) fn new(store: &Store) -> Self {
        let read = |path: &str| {
            let text = std::fs::read_to_string(path).ok()?;
            Some(text.trim().to_string())
        };
        let host = || {
            Some(HostBoot {
                id: read("/proc/sys/kernel/random/boot_id")?,
                kernel: read("/proc/sys/kernel/version")?,
            })
        };

        Self {
            shelf: store.hot_images(),
            host: host(),
            slots: Mutex::default(),
        }
    }

    fn key(
        &self,
        templates: &Templates,
        factory: &VmFactory,
        spec: &TemplateSpec,
    ) -> Option<TemplateKey> {
        let host = self.host.as_ref()?;
        let mut inputs = templates.inputs(factory, spec);
        let own = [
            ("hot image", IMAGE_VERSION.to_string()),
            ("boot", host.id.clone()),
            ("host kernel", host.kernel.clone()),
        ];
        inputs.extend(own.map(|(name, value)| (name.to_string(), value)));
        Some(TemplateKey::of(&inputs))
    }

    /// Returns the image if there is one. It does not wait for anything.
    pub(crate) fn find(
        &self,
        templates: &Templates,
        factory: &VmFactory,
        spec: &TemplateSpec,
    ) -> Option<Snapshot> {
        let mut slots = self.slots();
        match slots.get(spec) {
            Some(Slot::Ready { snapshot, expires }) if Instant::now() < *expires => {
                return Some(snapshot.clone());
            }
            Some(Slot::Missing(since)) if since.elapsed() < MISSING_TIMEOUT => return None,
            _ => {}
        }

        let key = self.key(templates, factory, spec)?;
        let opened = self
            .open(&key, templates, factory, spec)
            .inspect_err(|error| {
                tracing::warn!(%error, "opening a hot image failed");
            });
        let slot = match opened {
            Ok(Some(slot)) => slot,
            Ok(None) | Err(_) => Slot::Missing(Instant::now()),
        };
        let found = match &slot {
            Slot::Ready { snapshot, .. } => Some(snapshot.clone()),
            Slot::Missing(_) => None,
        };
        slots.insert(spec.clone(), slot);
        found
    }

    fn open(
        &self,
        key: &TemplateKey,
        templates: &Templates,
        factory: &VmFactory,
        spec: &TemplateSpec,
    ) -> Result<Option<Slot>, Error> {
        let failed = |e: &dyn std::fmt::Display| {
            Error::new(ErrorKind::Damaged, format!("cannot open a hot image: {e}"))
        };
        let Some(stored) = self.shelf.open(key, MAX_AGE).map_err(|e| failed(&e))? else {
            return Ok(None);
        };
        let expires = Instant::now() + MAX_AGE.saturating_sub(stored.age());
        match load(stored, || templates.open_ram(factory, spec)) {
            Ok(process) => {
                let machine = factory.machine(spec.shape.clone());
                let snapshot = Snapshot::hot(machine, process);
                Ok(Some(Slot::Ready { snapshot, expires }))
            }
            Err(reason) => {
                self.shelf.discard(key, &reason);
                Ok(None)
            }
        }
    }

    /// Removes an image from which a VM did not continue.
    pub(crate) fn discard(
        &self,
        templates: &Templates,
        factory: &VmFactory,
        spec: &TemplateSpec,
        reason: &Error,
    ) {
        self.slots()
            .insert(spec.clone(), Slot::Missing(Instant::now()));
        if let Some(key) = self.key(templates, factory, spec) {
            self.shelf.discard(&key, &reason.to_string());
        }
    }

    /// Creates an image: restores the template, runs programs, and saves QEMU with the guest. The image counts only after a
    /// VM has continued from it and run a program.
    ///
    /// # Errors
    /// As a restore, and [`ErrorKind::Host`] if this host does not support images.
    pub(crate) async fn build(
        &self,
        templates: &Templates,
        factory: &VmFactory,
        spec: &TemplateSpec,
        template: &Snapshot,
        deadline: Duration,
    ) -> Result<BuildResult, Error> {
        let host = self.host.as_ref();
        let (Some(key), Some(host)) = (self.key(templates, factory, spec), host) else {
            return Err(Error::new(
                ErrorKind::Host,
                "this host does not report its boot",
            ));
        };

        // Only one process creates an image.
        let (shelf, boot) = (self.shelf.clone(), host.id.clone());
        let started = tokio::task::spawn_blocking(move || shelf.create(&key, &boot, MAX_AGE)).await;
        let draft = match started.map_err(|e| not_saved(&e))? {
            Ok(Some(draft)) => Ok(draft),
            Ok(None) => return Ok(BuildResult::Elsewhere),
            Err(error) => Err(error.to_string()),
        };

        let snapshot = hot_snapshot(factory, spec, template, deadline).await?;
        let snapshot = try_out(factory, spec, &snapshot, deadline).await?;
        let in_memory = Slot::Ready {
            snapshot: snapshot.clone(),
            expires: Instant::now() + MAX_AGE,
        };

        let saving = tokio::task::spawn_blocking(move || save(draft?, &snapshot));
        Ok(match saving.await.map_err(|e| not_saved(&e))? {
            Ok(()) => {
                // From now on from disk, whose cache other programs share.
                self.slots().remove(spec);
                BuildResult::Saved
            }
            Err(why) => {
                self.slots().insert(spec.clone(), in_memory);
                BuildResult::Unsaved(why)
            }
        })
    }

    fn slots(&self) -> MutexGuard<'_, HashMap<TemplateSpec, Slot>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Opens everything that an image maps.
fn load(
    stored: HotImage,
    open_template: impl FnOnce() -> Result<File, String>,
) -> Result<SavedProcess, String> {
    let text = |e: &dyn std::fmt::Display| e.to_string();
    let Description {
        process,
        guest_memory,
        files: mapped,
    } = serde_json::from_slice(&stored.description).map_err(|e| text(&e))?;

    let mut files = vec![SavedFile::new(stored.pages, None).map_err(|e| text(&e))?];
    let mut open_template = Some(open_template);
    for file in &mapped {
        files.push(match file {
            MappedFile::TemplateMemory => {
                let open = open_template.take().ok_or("it maps two templates")?;
                SavedFile::new(open()?, None).map_err(|e| text(&e))?
            }
            MappedFile::Library(library) => {
                let path = &library.path;
                let current = Library::of(path).map_err(|e| format!("{}: {e}", path.display()))?;
                if current != *library {
                    return Err(format!("{} was changed", path.display()));
                }
                SavedFile::open(path).map_err(|e| text(&e))?
            }
        });
    }
    SavedProcess::new(process, guest_memory, files).map_err(|e| text(&e))
}

fn not_saved(error: &dyn std::fmt::Display) -> Error {
    Error::new(ErrorKind::Host, format!("cannot save a hot image: {error}"))
}

/// Restores a template, runs what first programs need, and saves QEMU with its guest.
async fn hot_snapshot(
    factory: &VmFactory,
    spec: &TemplateSpec,
    template: &Snapshot,
    deadline: Duration,
) -> Result<Snapshot, Error> {
    let machine = template.machine().clone();
    let bases = std::slice::from_ref(template);
    let standby = StandbyProcess::start(factory, machine.clone(), bases).await?;
    let restored = standby.restore(
        template,
        factory,
        &GuestInit::NONE,
        PROTOCOL_VERSION,
        deadline,
    );
    // The cable is held: a card without one has another state.
    let StartedVm {
        vm,
        agent,
        network: _network,
    } = restored.await?;
    let channel = Channel::new(agent);

    let take_turn = async || {
        quiesce(&channel).await?;
        refresh(&channel, factory.new_refresh(&GuestInit::NONE)?).await
    };
    run_primer(&channel, spec).await?;
    take_turn().await?;
    // Its end needs code that no primer needs.
    run_first_program(&channel, spec.language).await?;
    run_primer(&channel, spec).await?;
    run_primer(&channel, spec).await?;
    take_turn().await?;

    quiesce(&channel).await?;
    let snapshot = Snapshot::take(&vm, machine, Some(template), WithProcess::Yes).await;
    vm.end().await;
    snapshot
}

/// Continues a VM from an image and runs a program in it. Returns the image with what was learned.
async fn try_out(
    factory: &VmFactory,
    spec: &TemplateSpec,
    snapshot: &Snapshot,
    deadline: Duration,
) -> Result<Snapshot, Error> {
    let continued = continue_guest(factory, snapshot, &GuestInit::NONE, deadline);
    let StartedVm {
        vm,
        agent,
        network: _network,
    } = continued.await?;
    let channel = Channel::new(agent);
    run_first_program(&channel, spec.language).await?;

    let process = snapshot
        .process()
        .ok_or_else(|| not_saved(&"it has no process"))?;
    let process = process
        .learn_from(vm.process_id())
        .map_err(|e| not_saved(&e))?;
    vm.end().await;
    Ok(Snapshot::hot(snapshot.machine().clone(), process))
}

/// Writes an image to the store.
fn save(draft: fumehood_image::HotImageWriter, snapshot: &Snapshot) -> Result<(), String> {
    let text = |e: &dyn std::fmt::Display| e.to_string();
    let process = snapshot.process().ok_or("it has no process")?;
    let [pages, others @ ..] = process.files() else {
        return Err("it has no pages".into());
    };
    let mapped = others.iter().map(|file| match file.path.as_deref() {
        Some(path) => Library::of(path).map(MappedFile::Library),
        None => Ok(MappedFile::TemplateMemory),
    });
    let description = Description {
        process: process.image().clone(),
        guest_memory: process.guest_memory(),
        files: mapped.collect::<Result<_, _>>().map_err(|e| text(&e))?,
    };
    let description = serde_json::to_vec(&description).map_err(|e| text(&e))?;

    let pages = pages.try_clone().map_err(|e| text(&e))?;
    draft
        .finish(&pages, &description)
        .map(drop)
        .map_err(|e| text(&e))
}
