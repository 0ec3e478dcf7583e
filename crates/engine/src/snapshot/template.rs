use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use fumehood_image::{Store, TEMPLATES_BYTES, TemplateKey, Templates as Shelf};
use fumehood_protocol::{Language, PROTOCOL_VERSION};

use super::state::Snapshot;
use super::warmup::{primer, quiesce, run_primer};
use crate::agent::{Channel, GuestInit};
use crate::config::Qemu;
use crate::error::{Error, ErrorKind};
use crate::vm::{Layer, Shape, StartedVm, VmFactory};

/// How long a template that was not there is not looked for again.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// How often the primer runs before the state is saved: Python adapts its code to what it has seen
/// after a few runs.
const PRIMER_RUNS: usize = 3;

/// Which template.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct TemplateSpec {
    pub(crate) language: Language,
    pub(crate) shape: Shape,
}

/// What became of a build.
#[derive(Debug)]
pub(crate) enum BuildResult {
    Saved,
    /// It is in memory; why it is not on disk.
    Unsaved(String),
    /// Another process has built it, or does so now.
    Elsewhere,
}

/// The warm templates of one engine: those on disk, and those that are in memory already.
#[derive(Debug)]
pub(crate) struct Templates {
    shelf: Shelf,
    /// What all keys of this engine have in common.
    inputs: BTreeMap<String, String>,
    slots: Mutex<HashMap<TemplateSpec, Slot>>,
}

#[derive(Debug, Clone)]
enum Slot {
    Here(Snapshot),
    /// Was not there at that moment.
    Missing(Instant),
}

impl Templates {
    /// # Errors
    /// [`ErrorKind::Host`]: QEMU's program cannot be read.
    pub(crate) fn new(store: &Store, qemu: &Qemu, factory: &VmFactory) -> Result<Self, Error> {
        let qemu = store.fingerprint(&qemu.program).map_err(|e| {
            let message = format!("QEMU's program cannot be told from others: {e}");
            Error::new(ErrorKind::Host, message).caused_by(e)
        })?;
        let text = |value: &str| value.to_string();
        let inputs = [
            ("image", text(factory.image().id())),
            ("qemu", qemu),
            ("kernel arguments", text(factory.kernel_arguments())),
            ("host cpu", host_cpu()),
            ("protocol", PROTOCOL_VERSION.to_string()),
            ("version", text(env!("CARGO_PKG_VERSION"))),
        ];
        Ok(Self {
            shelf: store.templates(),
            inputs: inputs.map(|(name, value)| (text(name), value)).into(),
            slots: Mutex::default(),
        })
    }

    /// All that one template depends on.
    fn inputs(&self, factory: &VmFactory, spec: &TemplateSpec) -> BTreeMap<String, String> {
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
            ("primer", primer(spec.language).to_string()),
        ];
        inputs.extend(own.map(|(name, value)| (name.to_string(), value)));
        inputs
    }

    /// Its key, under which it lies on disk.
    pub(crate) fn key(&self, factory: &VmFactory, spec: &TemplateSpec) -> TemplateKey {
        TemplateKey::of(&self.inputs(factory, spec))
    }

    /// The template, if it is there. One that lies on disk is brought into memory on a thread of its
    /// own; the snapshot tells when that is done.
    pub(crate) fn find(&self, factory: &VmFactory, spec: &TemplateSpec) -> Option<Snapshot> {
        // Held while it is opened: of many that ask at once, one brings it into memory.
        let mut slots = self.slots();
        match slots.get(spec) {
            Some(Slot::Here(snapshot)) => return Some(snapshot.clone()),
            Some(Slot::Missing(since)) if since.elapsed() < LOOK_AGAIN => return None,
            _ => {}
        }
        let found = self.open(factory, spec);
        let slot = match &found {
            Some(snapshot) => Slot::Here(snapshot.clone()),
            None => Slot::Missing(Instant::now()),
        };
        slots.insert(spec.clone(), slot);
        found
    }

    fn open(&self, factory: &VmFactory, spec: &TemplateSpec) -> Option<Snapshot> {
        let opened = self.shelf.open(&self.key(factory, spec));
        let template = opened
            .inspect_err(|error| tracing::warn!(%error, "a template cannot be opened"))
            .ok()??;
        let state = template.state().to_vec();
        let fill = move |ram: &std::fs::File| template.copy_ram_to(ram).map_err(|e| e.to_string());
        Snapshot::load(factory.machine(spec.shape.clone()), state, fill)
            .inspect_err(|error| tracing::warn!(%error, "a template cannot be loaded"))
            .ok()
    }

    /// Forgets a template that proved to be of no use; it is built again when it is asked for.
    pub(crate) fn discard(&self, factory: &VmFactory, spec: &TemplateSpec) {
        self.slots()
            .insert(spec.clone(), Slot::Missing(Instant::now()));
        let key = self.key(factory, spec).to_string();
        let pruned = self
            .shelf
            .prune(TEMPLATES_BYTES, |manifest| manifest.key != key);
        if let Err(error) = pruned {
            tracing::warn!(%error, "a damaged template cannot be removed");
        }
    }

    /// Whether it is on disk.
    pub(crate) fn has(&self, factory: &VmFactory, spec: &TemplateSpec) -> bool {
        self.shelf.has(&self.key(factory, spec))
    }

    /// Builds it: boots a VM, warms it up, saves its state. Where the disk does not take it, it is kept in
    /// memory for this engine.
    ///
    /// # Errors
    /// As a boot, and [`ErrorKind::Host`].
    pub(crate) async fn build(
        &self,
        factory: &VmFactory,
        spec: &TemplateSpec,
        deadline: Duration,
    ) -> Result<BuildResult, Error> {
        let (shelf, key) = (self.shelf.clone(), self.key(factory, spec));
        let begun = tokio::task::spawn_blocking(move || shelf.begin(&key)).await;
        let draft = match begun.map_err(|e| not_saved(&e))? {
            Ok(Some(draft)) => Ok(draft),
            Ok(None) => return Ok(BuildResult::Elsewhere),
            Err(error) => Err(error.to_string()),
        };
        let snapshot = warm(factory, spec, deadline).await?;
        self.slots()
            .insert(spec.clone(), Slot::Here(snapshot.clone()));
        let (shelf, inputs) = (self.shelf.clone(), self.inputs(factory, spec));
        let saving = move || {
            let save = |error: fumehood_image::Error| error.to_string();
            draft?
                .finish(inputs, snapshot.ram(), snapshot.state())
                .map_err(save)?;
            shelf
                .prune(TEMPLATES_BYTES, |_| true)
                .map(drop)
                .map_err(save)
        };
        let saved = tokio::task::spawn_blocking(saving).await;
        match saved.map_err(|e| not_saved(&e))? {
            Ok(()) => Ok(BuildResult::Saved),
            Err(why) => {
                tracing::warn!(why, "a template was not saved; this program alone has it");
                Ok(BuildResult::Unsaved(why))
            }
        }
    }

    fn slots(&self) -> MutexGuard<'_, HashMap<TemplateSpec, Slot>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn not_saved(error: &tokio::task::JoinError) -> Error {
    Error::new(
        ErrorKind::Host,
        format!("a template was not saved: {error}"),
    )
}

/// Threads of bun's clear up after a program for about a second: what they had not done when the state is
/// saved, they would do in every VM, beside its first program (measured: 70 ms until its output).
const BUN_SETTLES: Duration = Duration::from_millis(1500);

/// The state of a VM that has been booted for this and warmed up.
async fn warm(
    factory: &VmFactory,
    spec: &TemplateSpec,
    deadline: Duration,
) -> Result<Snapshot, Error> {
    let machine = factory.machine(spec.shape.clone());
    let boot = factory.boot(&machine, &GuestInit::NONE, PROTOCOL_VERSION, deadline);
    // Held: a card whose cable is cut is another one.
    let StartedVm {
        vm,
        agent,
        network: _network,
    } = boot.await?;
    let channel = Channel::new(agent);
    for _ in 0..PRIMER_RUNS {
        run_primer(&channel, spec.language).await?;
    }
    if spec.language == Language::Javascript {
        tokio::time::sleep(BUN_SETTLES).await;
    }
    quiesce(&channel).await?;
    let snapshot = Snapshot::take(&vm, machine, None).await;
    vm.end().await;
    snapshot
}

/// The host's processor by name: a state that was saved on one may not run on another.
fn host_cpu() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let of_the_first = text.lines().take_while(|line| !line.trim().is_empty());
    let progress = of_the_first.filter(|line| {
        ["vendor_id", "cpu family", "model", "stepping", "flags"]
            .iter()
            .any(|name| line.starts_with(name))
    });
    progress.collect::<Vec<_>>().join("\n")
}
