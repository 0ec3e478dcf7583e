use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use fumehood_image::{Store, TEMPLATES_BYTES, TemplateKey, Templates as TemplateStore};
use fumehood_protocol::{Language, PROTOCOL_VERSION};

use super::state::{Snapshot, WithProcess};
use super::template_memory::TemplateMemory;
use super::template_spec::TemplateSpec;
use super::warmup::{clear_free_memory, quiesce, run_primer, warmup_programs};
use crate::agent::{Channel, GuestInit};
use crate::config::Qemu;
use crate::error::{Error, ErrorKind};
use crate::vm::{Layer, Shape, StartedVm, VmFactory};

/// The input that identifies the build of QEMU.
const QEMU: &str = "qemu";

/// How long a missing template is not searched for again.
const MISSING_TIMEOUT: Duration = Duration::from_secs(1);

/// How often the primer runs before the state is saved: Python adapts its code to the observed types after a few runs.
const PRIMER_RUNS: usize = 3;

/// Time for bun's threads to clean up after a program: about a second. Work that is unfinished when the state is saved
/// would be done in every VM, at the same time as its first program (measured: 70 ms until its output).
const BUN_SETTLE_TIME: Duration = Duration::from_millis(1500);

/// The result of a build.
#[derive(Debug)]
pub(crate) enum BuildResult {
    Saved,
    /// The template is in memory; the reason why it is not on disk.
    Unsaved(String),
    /// Another process has built it, or is building it.
    Elsewhere,
}

/// The templates of one engine: those on disk, and those in memory.
#[derive(Debug)]
pub(crate) struct Templates {
    store: TemplateStore,
    /// The inputs that all keys of this engine have in common.
    inputs: BTreeMap<String, String>,
    slots: Mutex<HashMap<TemplateSpec, Slot>>,
}

#[derive(Debug, Clone)]
enum Slot {
    Loaded(Snapshot),
    /// The template did not exist at that time.
    Missing(Instant),
}

impl Templates {
    /// Opens the templates of a store.
    ///
    /// # Errors
    /// Returns [`ErrorKind::Host`] if QEMU's program cannot be read.
    pub(crate) fn new(store: &Store, qemu: &Qemu, factory: &VmFactory) -> Result<Self, Error> {
        let qemu = store.fingerprint(&qemu.program).map_err(|e| {
            let message = format!("cannot compute the fingerprint of QEMU's program: {e}");
            Error::new(ErrorKind::Host, message).caused_by(e)
        })?;

        let text = |value: &str| value.to_string();
        let inputs = [
            ("image", text(factory.image().id())),
            (QEMU, qemu),
            ("kernel arguments", text(factory.kernel_arguments())),
            ("host cpu", host_cpu()),
            ("protocol", PROTOCOL_VERSION.to_string()),
            ("version", text(env!("CARGO_PKG_VERSION"))),
        ];

        Ok(Self {
            store: store.templates(),
            inputs: inputs.map(|(name, value)| (text(name), value)).into(),
            slots: Mutex::default(),
        })
    }

    /// Returns everything that a template depends on.
    pub(super) fn inputs(
        &self,
        factory: &VmFactory,
        spec: &TemplateSpec,
    ) -> BTreeMap<String, String> {
        let mut inputs = self.inputs.clone();
        let Shape {
            memory_mib,
            network,
            layer,
        } = &spec.shape;

        let layer = layer.as_ref().map_or("", Layer::digest);
        let own = [
            ("machine", factory.machine(spec.shape.clone()).text()),
            ("memory_mib", memory_mib.to_string()),
            ("network", network.to_string()),
            ("layer", layer.to_string()),
            ("language", spec.language.to_string()),
            ("primer", warmup_programs(spec)),
        ];
        inputs.extend(own.map(|(name, value)| (name.to_string(), value)));

        inputs
    }

    /// Returns the key of a template on disk.
    fn key(&self, factory: &VmFactory, spec: &TemplateSpec) -> TemplateKey {
        TemplateKey::of(&self.inputs(factory, spec))
    }

    /// Returns the template if it exists. If it is only on disk, it is loaded on a separate thread; the snapshot
    /// reports when that is done.
    pub(crate) fn find(&self, factory: &VmFactory, spec: &TemplateSpec) -> Option<Snapshot> {
        // Locked until it is opened: of many requests at the same time, one loads the template.
        let mut slots = self.slots();
        match slots.get(spec) {
            Some(Slot::Loaded(snapshot)) => return Some(snapshot.clone()),
            Some(Slot::Missing(since)) if since.elapsed() < MISSING_TIMEOUT => return None,
            _ => {}
        }

        let snapshot = self.open(factory, spec);
        let slot = match &snapshot {
            Some(snapshot) => Slot::Loaded(snapshot.clone()),
            None => Slot::Missing(Instant::now()),
        };

        slots.insert(spec.clone(), slot);

        snapshot
    }

    fn open(&self, factory: &VmFactory, spec: &TemplateSpec) -> Option<Snapshot> {
        let opened = self.store.open(&self.key(factory, spec));
        let template = opened
            .inspect_err(|error| tracing::warn!(%error, "opening a template failed"))
            .ok()??;

        let state = template.state().to_vec();
        let memory = TemplateMemory::of(&template)
            .inspect_err(|error| tracing::warn!(%error, "loading a template failed"))
            .ok()?;
        let fill = move |ram: &std::fs::File| template.copy_ram_to(ram).map_err(|e| e.to_string());
        let machine = factory.machine(spec.shape.clone());
        Snapshot::load(machine, state, Some(memory), Vec::new(), fill)
            .inspect_err(|error| tracing::warn!(%error, "loading a template failed"))
            .ok()
    }

    /// Opens the file of a template's memory. Returns `None` if there is no such template.
    ///
    /// # Errors
    /// A message.
    pub(super) fn open_ram(
        &self,
        factory: &VmFactory,
        spec: &TemplateSpec,
    ) -> Result<Option<File>, String> {
        let memory = self.open_memory(factory, spec)?;
        let ram = memory.map(|memory| memory.needed().file.try_clone());
        ram.transpose().map_err(|e| e.to_string())
    }

    /// Opens a template's memory. Returns `None` if there is no such template.
    ///
    /// # Errors
    /// A message.
    pub(super) fn open_memory(
        &self,
        factory: &VmFactory,
        spec: &TemplateSpec,
    ) -> Result<Option<TemplateMemory>, String> {
        let opened = self.store.open(&self.key(factory, spec));
        let template = opened.map_err(|e| e.to_string())?;
        let memory = template.map(|template| TemplateMemory::of(&template));
        memory.transpose().map_err(|e| e.to_string())
    }

    /// Returns the fingerprint of QEMU's program.
    pub(crate) fn qemu_fingerprint(&self) -> &str {
        self.inputs.get(QEMU).map_or("", String::as_str)
    }

    /// Forgets a template that could not be loaded. The next request opens it again and hashes its files: if they are
    /// damaged, it is removed and built again. Other processes keep using a template that only this one could not
    /// load, for example because of too little memory.
    pub(crate) fn forget(&self, factory: &VmFactory, spec: &TemplateSpec) {
        self.slots().remove(spec);

        if let Err(error) = self.store.distrust(&self.key(factory, spec)) {
            tracing::warn!(%error, "cannot mark a template for a check");
        }
    }

    /// Releases the memory of a template if it is on disk. The next use reads it again.
    pub(crate) fn release(&self, factory: &VmFactory, spec: &TemplateSpec) {
        if self.has(factory, spec) {
            self.slots().remove(spec);
        }
    }

    /// Returns whether a template is on disk.
    pub(crate) fn has(&self, factory: &VmFactory, spec: &TemplateSpec) -> bool {
        self.store.has(&self.key(factory, spec))
    }

    /// Builds a template: boots a VM, warms it up, and saves its state. If it cannot be written to disk, it stays in
    /// the memory of this engine.
    ///
    /// # Errors
    /// As a boot, and [`ErrorKind::Host`].
    pub(crate) async fn build(
        &self,
        factory: &VmFactory,
        spec: &TemplateSpec,
        deadline: Duration,
    ) -> Result<BuildResult, Error> {
        // Only one process builds a template.
        let (store, key) = (self.store.clone(), self.key(factory, spec));
        let started = tokio::task::spawn_blocking(move || store.create(&key)).await;
        let draft = match started.map_err(|e| task_failed(&e))? {
            Ok(Some(draft)) => Ok(draft),
            Ok(None) => return Ok(BuildResult::Elsewhere),
            Err(error) => Err(error.to_string()),
        };

        // The template can be used from memory before it is on disk.
        let snapshot = warm_snapshot(factory, spec, deadline).await?;
        let loaded = Slot::Loaded(snapshot.clone());
        self.slots().insert(spec.clone(), loaded);

        let (store, inputs) = (self.store.clone(), self.inputs(factory, spec));
        let image = factory.image().id().to_string();
        let ram = snapshot.ram().await?;
        let saving = move || {
            let failed = |error: fumehood_image::Error| error.to_string();
            draft?
                .finish(inputs, &ram, snapshot.state())
                .map_err(failed)?;

            store
                .prune_stale(TEMPLATES_BYTES, Some(&image))
                .map(drop)
                .map_err(failed)
        };

        let saved = tokio::task::spawn_blocking(saving).await;
        match saved.map_err(|e| task_failed(&e))? {
            Ok(()) => Ok(BuildResult::Saved),
            Err(why) => {
                tracing::warn!(why, "saving a template failed; only this process has it");
                Ok(BuildResult::Unsaved(why))
            }
        }
    }

    fn slots(&self) -> MutexGuard<'_, HashMap<TemplateSpec, Slot>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn task_failed(error: &tokio::task::JoinError) -> Error {
    let message = format!("the task that saves a template failed: {error}");
    Error::new(ErrorKind::Host, message)
}

/// Boots a VM, warms it up, and returns its state.
async fn warm_snapshot(
    factory: &VmFactory,
    spec: &TemplateSpec,
    deadline: Duration,
) -> Result<Snapshot, Error> {
    let machine = factory.machine(spec.shape.clone());
    let boot = factory.boot(&machine, &GuestInit::NONE, PROTOCOL_VERSION, deadline);
    // The cable is held: a card without one has another state.
    let StartedVm {
        vm,
        agent,
        network: _network,
    } = boot.await?;

    let channel = Channel::new(agent);
    for _ in 0..PRIMER_RUNS {
        run_primer(&channel, spec).await?;
    }

    if spec.bundle.is_some() {
        clear_free_memory(&channel, spec).await?;
    }

    if spec.language == Language::Javascript {
        tokio::time::sleep(BUN_SETTLE_TIME).await;
    }

    quiesce(&channel).await?;
    let snapshot = Snapshot::take(&vm, machine, None, WithProcess::No).await;
    vm.end().await;

    snapshot
}

/// Returns the host's processor model: a state that was saved on one may not run on another.
pub(crate) fn host_cpu() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let first_processor = text.lines().take_while(|line| !line.trim().is_empty());
    let relevant = first_processor.filter(|line| {
        ["vendor_id", "cpu family", "model", "stepping", "flags"]
            .iter()
            .any(|name| line.starts_with(name))
    });

    relevant.collect::<Vec<_>>().join("\n")
}
