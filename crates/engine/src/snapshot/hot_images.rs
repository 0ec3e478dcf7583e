use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use fumehood_image::{HOT_IMAGE_AGE, HotImages as Shelf, Store, TemplateKey, boot_id};
use fumehood_protocol::PROTOCOL_VERSION;
use fumehood_qemu::IMAGE_VERSION;

use super::continuation::continue_guest;
use super::image_files::{FileIdentity, Libraries, LoadError, load, save};
use super::image_lifetime::{Attempts, Lifetime};
use super::restore::WaitingProcess;
use super::state::{Snapshot, WithProcess};
use super::template::{BuildResult, Templates};
use super::template_spec::TemplateSpec;
use super::warmup::{has_second_file, quiesce, refresh, run_first_program, run_primer};
use crate::agent::{Channel, GuestInit};
use crate::error::{Error, ErrorKind};
use crate::vm::{StartedVm, VmFactory};

/// How long a missing image is not searched for again.
const MISSING_TIMEOUT: Duration = Duration::from_secs(1);

/// Maximum number of images that an engine holds open: each takes some 60 descriptors.
const MAX_OPEN: usize = 24;

/// Number of programs that run before the state is saved.
const FIRST_PROGRAMS: usize = 2;

/// Maximum number of further programs until the interpreter that waits has the file `main.py`.
const MAX_FURTHER_PROGRAMS: usize = 4;

/// The hot images of one engine: QEMU processes that were saved after they had run programs, with the code that they
/// translated.
#[derive(Debug)]
pub(crate) struct HotImages {
    shelf: Shelf,
    /// The id of this boot of the host, and the build of its kernel: an image is of use until the next boot. None if images
    /// are not used.
    host: Option<HostBoot>,
    slots: Mutex<HashMap<TemplateSpec, Slot>>,
    libraries: Libraries,
}

#[derive(Debug)]
struct HostBoot {
    id: String,
    kernel: String,
}

/// What an engine knows of the image of one specification.
#[derive(Debug, Default)]
struct Slot {
    image: Option<(Snapshot, Lifetime)>,
    /// When the store had none.
    missing: Option<Instant>,
    last_used: Option<Instant>,
    attempts: Attempts,
}

impl Slot {
    /// Takes the image for one VM.
    fn take(&mut self, now: Instant) -> Option<Snapshot> {
        let (snapshot, lifetime) = self.image.as_mut()?;
        lifetime.count_vm();
        self.last_used = Some(now);
        Some(snapshot.clone())
    }

    /// Returns whether an image is to be created now.
    fn needs_build(&self, now: Instant) -> bool {
        let is_due = self.image.as_ref().is_none_or(|(_, life)| life.is_due(now));
        is_due && self.attempts.may_start(now)
    }

    fn set(&mut self, snapshot: Snapshot, age: Duration, now: Instant) {
        self.image = Some((snapshot, Lifetime::of_age(age, now)));
        self.attempts = Attempts::default();
    }
}

impl HotImages {
    /// Opens the images of a store, if they are used at all.
    pub(crate) fn new(store: &Store, are_used: bool) -> Self {
        let host = || {
            let kernel = std::fs::read_to_string("/proc/sys/kernel/version").ok()?;
            Some(HostBoot {
                id: boot_id()?,
                kernel: kernel.trim().to_owned(),
            })
        };

        Self {
            shelf: store.hot_images(),
            host: are_used.then(host).flatten(),
            slots: Mutex::default(),
            libraries: Libraries::default(),
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

    /// Returns the image for one VM, if there is one. It does not wait for anything.
    pub(crate) fn find(
        &self,
        templates: &Templates,
        factory: &VmFactory,
        spec: &TemplateSpec,
    ) -> Option<Snapshot> {
        self.host.as_ref()?;
        self.remove_unusable(templates, factory, spec);

        let (mut slots, now) = (self.slots(), Instant::now());
        let slot = slots.entry(spec.clone()).or_default();
        if slot.image.is_none() {
            let is_missing = |since: Instant| since.elapsed() < MISSING_TIMEOUT;
            if slot.missing.is_some_and(is_missing) {
                return None;
            }
            match self.open(templates, factory, spec, HOT_IMAGE_AGE) {
                Some((snapshot, age)) => slot.set(snapshot, age, now),
                None => slot.missing = Some(now),
            }
        }

        let image = slot.take(now);
        close_surplus(&mut slots);
        image
    }

    /// Stops using an image that is too old, or from which too many VMs were started.
    fn remove_unusable(&self, templates: &Templates, factory: &VmFactory, spec: &TemplateSpec) {
        let mut slots = self.slots();
        let Some(slot) = slots.get_mut(spec) else {
            return;
        };
        let now = Instant::now();
        let Some((_, lifetime)) = slot.image.take_if(|(_, lifetime)| lifetime.is_over(now)) else {
            return;
        };
        drop(slots);

        // The store removes those that are too old.
        if lifetime.is_used_up() {
            let message = "as many VMs were started from it as are allowed";
            self.discard(templates, factory, spec, message);
        }
    }

    /// Returns whether images are used: under software emulation, unless the configuration forbids it.
    pub(crate) fn are_used(&self) -> bool {
        self.host.is_some()
    }

    /// Returns whether an image is to be created now: there is none, or it will be too old soon.
    pub(crate) fn needs_build(&self, spec: &TemplateSpec) -> bool {
        let slots = self.slots();
        let needs = |slot: &Slot| slot.needs_build(Instant::now());
        self.host.is_some() && slots.get(spec).is_none_or(needs)
    }

    /// Returns a specification whose image is used, and will be too old soon.
    pub(crate) fn due(&self) -> Option<TemplateSpec> {
        let (slots, now) = (self.slots(), Instant::now());
        let mut used = slots.iter().filter(|(_, slot)| slot.image.is_some());
        let due = used.find(|(_, slot)| slot.needs_build(now));
        due.map(|(spec, _)| spec.clone())
    }

    /// Returns whether this engine has the image of a specification. If the store has it, it is opened: from then on it is
    /// renewed in time.
    pub(crate) fn has(
        &self,
        templates: &Templates,
        factory: &VmFactory,
        spec: &TemplateSpec,
    ) -> bool {
        let is_open = |slot: &Slot| slot.image.is_some();
        if !self.are_used() || self.slots().get(spec).is_some_and(is_open) {
            return self.are_used();
        }

        let opened = self.open(templates, factory, spec, HOT_IMAGE_AGE);
        let Some((snapshot, age)) = opened else {
            return false;
        };
        let mut slots = self.slots();
        let slot = slots.entry(spec.clone()).or_default();
        slot.set(snapshot, age, Instant::now());
        true
    }

    /// Returns the programs and libraries that were opened.
    pub(crate) fn libraries(&self) -> &Libraries {
        &self.libraries
    }

    /// Returns the images of the store.
    pub(crate) fn shelf(&self) -> &Shelf {
        &self.shelf
    }

    /// Opens an image of the store that is not older than this. Returns it with its age.
    fn open(
        &self,
        templates: &Templates,
        factory: &VmFactory,
        spec: &TemplateSpec,
        max_age: Duration,
    ) -> Option<(Snapshot, Duration)> {
        let key = self.key(templates, factory, spec)?;
        let opened = self.shelf.open_younger(&key, max_age);
        let stored = opened
            .inspect_err(|error| tracing::warn!(%error, "opening a hot image failed"))
            .ok()??;

        let age = stored.age();
        match load(stored, &self.libraries, || {
            templates.open_memory(factory, spec)
        }) {
            Ok((process, template)) => {
                let machine = factory.machine(spec.shape.clone());
                Some((Snapshot::hot(machine, process, template), age))
            }
            Err(LoadError::Unusable(reason)) => {
                self.shelf.discard(&key, &reason);
                None
            }
            Err(error @ LoadError::NotOpened(_)) => {
                tracing::warn!(%error, "opening a hot image failed");
                None
            }
        }
    }

    /// Removes an image that must not be used any more.
    pub(crate) fn discard(
        &self,
        templates: &Templates,
        factory: &VmFactory,
        spec: &TemplateSpec,
        reason: &str,
    ) {
        if let Some(slot) = self.slots().get_mut(spec) {
            slot.image = None;
            slot.missing = Some(Instant::now());
        }
        if let Some(key) = self.key(templates, factory, spec) {
            self.shelf.discard(&key, reason);
        }
    }

    /// Creates an image: restores the template as it is on disk, runs programs, and saves QEMU with the guest. The image
    /// counts only after a VM has continued from it and run a program. A failure delays the next attempt, and is recorded in the store.
    ///
    /// # Errors
    /// As a restore, and [`ErrorKind::Host`] if this host does not support images.
    pub(crate) async fn build(
        &self,
        templates: &Templates,
        factory: &VmFactory,
        spec: &TemplateSpec,
        deadline: Duration,
    ) -> Result<BuildResult, Error> {
        let built = self.try_build(templates, factory, spec, deadline);
        let result = built.await;

        let recorded = match &result {
            Ok(BuildResult::Saved) => self.shelf.clear_failure(),
            Ok(BuildResult::Elsewhere) => Ok(()),
            Ok(BuildResult::Unsaved(why)) => self.shelf.record_failure(why),
            Err(error) => self.shelf.record_failure(&error.to_string()),
        };
        if let Err(error) = recorded {
            tracing::warn!(%error, "cannot record whether a hot image could be created");
        }
        if result.is_err() {
            self.attempts(spec, |attempts| attempts.fail(Instant::now()));
        }
        result
    }

    async fn try_build(
        &self,
        templates: &Templates,
        factory: &VmFactory,
        spec: &TemplateSpec,
        deadline: Duration,
    ) -> Result<BuildResult, Error> {
        let Some(key) = self.key(templates, factory, spec) else {
            let message = "this host does not report its boot";
            return Err(Error::new(ErrorKind::Host, message));
        };

        // An image that cannot be used is removed, so that it does not count.
        let (label, max_age) = (label(spec), self.max_age(spec));
        drop(self.open(templates, factory, spec, max_age));

        // Only one process creates an image. An image that is in use is replaced by a younger one.
        let shelf = self.shelf.clone();
        let started = tokio::task::spawn_blocking(move || shelf.create(&key, &label, max_age));
        let draft = match started.await.map_err(|e| not_saved(&e))? {
            Ok(Some(draft)) => Ok(draft),
            Ok(None) => {
                self.adopt(templates, factory, spec, max_age);
                return Ok(BuildResult::Elsewhere);
            }
            Err(error) => Err(error.to_string()),
        };

        let (template, file) = load_template(templates, factory, spec)?;
        let snapshot = hot_snapshot(factory, spec, &template, deadline).await?;
        let snapshot = try_out(factory, spec, &snapshot, deadline).await?;
        self.slots().entry(spec.clone()).or_default().set(
            snapshot.clone(),
            Duration::ZERO,
            Instant::now(),
        );

        let saving = tokio::task::spawn_blocking(move || save(draft?, &snapshot, file));
        Ok(match saving.await.map_err(|e| not_saved(&e))? {
            Ok(()) => {
                // From now on its pages are those of the files, which processes share and the host can reclaim.
                self.adopt(templates, factory, spec, HOT_IMAGE_AGE);
                BuildResult::Saved
            }
            Err(why) => BuildResult::Unsaved(why),
        })
    }

    /// Uses the image of the store if it is not older than this.
    fn adopt(
        &self,
        templates: &Templates,
        factory: &VmFactory,
        spec: &TemplateSpec,
        max_age: Duration,
    ) {
        let now = Instant::now();
        match self.open(templates, factory, spec, max_age) {
            Some((snapshot, age)) => {
                let mut slots = self.slots();
                slots
                    .entry(spec.clone())
                    .or_default()
                    .set(snapshot, age, now);
            }
            None => self.attempts(spec, |attempts| attempts.wait_for_other(now)),
        }
    }

    /// Returns the age above which an image in the store is replaced by a new one.
    fn max_age(&self, spec: &TemplateSpec) -> Duration {
        let (slots, now) = (self.slots(), Instant::now());
        let image = slots.get(spec).and_then(|slot| slot.image.as_ref());
        image.map_or(HOT_IMAGE_AGE, |(_, lifetime)| lifetime.age(now) / 2)
    }

    fn attempts(&self, spec: &TemplateSpec, change: impl FnOnce(&mut Attempts)) {
        change(&mut self.slots().entry(spec.clone()).or_default().attempts);
    }

    fn slots(&self) -> MutexGuard<'_, HashMap<TemplateSpec, Slot>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Closes the least recently used images above the limit. VMs that run from them are not affected.
fn close_surplus(slots: &mut HashMap<TemplateSpec, Slot>) {
    while slots.len() > MAX_OPEN {
        let oldest = slots.iter().min_by_key(|(_, slot)| slot.last_used);
        let Some(spec) = oldest.map(|(spec, _)| spec.clone()) else {
            return;
        };
        slots.remove(&spec);
    }
}

/// Returns a description of the guest for people.
fn label(spec: &TemplateSpec) -> String {
    let TemplateSpec {
        language,
        shape,
        bundle,
    } = spec;
    let packages = match (bundle, &shape.layer) {
        (Some(bundle), _) => format!(", {}", bundle.name),
        (None, Some(_)) => ", with packages".to_owned(),
        (None, None) => String::new(),
    };
    let network = if shape.network { " with network" } else { "" };
    format!(
        "{language} {} MiB of memory{network}{packages}",
        shape.memory_mib
    )
}

fn not_saved(error: &dyn std::fmt::Display) -> Error {
    Error::new(ErrorKind::Host, format!("cannot save a hot image: {error}"))
}

/// Loads a template from disk. Returns it with the identity of the file of its memory, which the image will map: another
/// process may replace the template at any time.
fn load_template(
    templates: &Templates,
    factory: &VmFactory,
    spec: &TemplateSpec,
) -> Result<(Snapshot, FileIdentity), Error> {
    let identity = || {
        let file = templates.open_ram(factory, spec)?;
        let file = file.ok_or("its template is missing")?;
        FileIdentity::of_template(&file).map_err(|e| e.to_string())
    };

    let before = identity().map_err(|why| not_saved(&why))?;
    templates.release(factory, spec);
    let template = templates.find(factory, spec);
    let after = identity().map_err(|why| not_saved(&why))?;
    match template {
        Some(template) if before == after => Ok((template, before)),
        _ => Err(not_saved(&"its template was replaced")),
    }
}

/// Restores a template, runs what first programs need, and saves QEMU with its guest.
async fn hot_snapshot(
    factory: &VmFactory,
    spec: &TemplateSpec,
    template: &Snapshot,
    deadline: Duration,
) -> Result<Snapshot, Error> {
    let machine = template.machine().clone();
    let process = WaitingProcess::start(factory, template).await?;
    let restored = process.restore(
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
    for _ in 0..FIRST_PROGRAMS {
        run_first_program(&channel, spec.language).await?;
    }
    run_primer(&channel, spec).await?;

    // Programs see the name of their file, which must not depend on how fast this guest was.
    for _ in 0..MAX_FURTHER_PROGRAMS {
        if !has_second_file(&channel, spec.language).await? {
            break;
        }
        run_first_program(&channel, spec.language).await?;
        run_primer(&channel, spec).await?;
    }
    run_primer(&channel, spec).await?;
    take_turn().await?;

    quiesce(&channel).await?;
    let snapshot = Snapshot::take(&vm, machine, Some(template), WithProcess::Yes).await;
    vm.end().await;
    snapshot
}

/// Continues a VM from an image and runs a program in it. Returns the image with the list of pages that the
/// VM has written.
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
    let template = snapshot.template().cloned();
    Ok(Snapshot::hot(snapshot.machine().clone(), process, template))
}
