use std::sync::atomic::{AtomicU64, Ordering};

use crate::run::VmOrigin;

/// How often what happened. Read by [`VmStats`].
#[derive(Debug, Default)]
pub(crate) struct Counters {
    by_source: [AtomicU64; 5],
    failed_restores: AtomicU64,
    discarded_templates: AtomicU64,
}

/// How often an engine had its VMs from where, since it was started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct VmStats {
    /// [`VmOrigin::Hot`].
    pub hot: u64,
    /// [`VmOrigin::Blank`].
    pub blank: u64,
    /// [`VmOrigin::Template`].
    pub template: u64,
    /// [`VmOrigin::Boot`].
    pub boot: u64,
    /// [`VmOrigin::Checkpoint`].
    pub checkpoint: u64,
    /// Restores that did not end in time or failed; another try or a boot took their place.
    pub failed_restores: u64,
    /// Templates that were thrown away, since they could not be read.
    pub discarded_templates: u64,
}

impl Counters {
    /// Counts a VM that came from there.
    pub(super) fn count(&self, source: VmOrigin) {
        self.of(source).fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a restore that failed.
    pub(super) fn count_failed_restore(&self) {
        self.failed_restores.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a template that was discarded because it could not be read.
    pub(super) fn count_discarded_template(&self) {
        self.discarded_templates.fetch_add(1, Ordering::Relaxed);
    }

    fn of(&self, source: VmOrigin) -> &AtomicU64 {
        let [hot, blank, template, boot, checkpoint] = &self.by_source;
        match source {
            VmOrigin::Hot => hot,
            VmOrigin::Blank => blank,
            VmOrigin::Template => template,
            VmOrigin::Boot => boot,
            VmOrigin::Checkpoint => checkpoint,
        }
    }

    pub(crate) fn read(&self) -> VmStats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let [hot, blank, template, boot, checkpoint] = &self.by_source;
        VmStats {
            hot: read(hot),
            blank: read(blank),
            template: read(template),
            boot: read(boot),
            checkpoint: read(checkpoint),
            failed_restores: read(&self.failed_restores),
            discarded_templates: read(&self.discarded_templates),
        }
    }
}
