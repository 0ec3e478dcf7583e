use std::sync::atomic::{AtomicU64, Ordering};

use crate::run::VmOrigin;

/// Counts where VMs came from, and what failed. Read as [`VmStats`].
#[derive(Debug, Default)]
pub(crate) struct Counters {
    by_origin: [AtomicU64; 6],
    failed_restores: AtomicU64,
    discarded_templates: AtomicU64,
}

/// How often VMs came from which origin since the engine was started. Returned by
/// [`Engine::vm_stats`](crate::Engine::vm_stats).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct VmStats {
    /// [`VmOrigin::Hot`].
    pub hot: u64,
    /// [`VmOrigin::Standby`].
    pub standby: u64,
    /// [`VmOrigin::HotImage`].
    pub hot_image: u64,
    /// [`VmOrigin::Template`].
    pub template: u64,
    /// [`VmOrigin::Boot`].
    pub boot: u64,
    /// [`VmOrigin::Checkpoint`].
    pub checkpoint: u64,
    /// Restores that failed or timed out; a retry or a boot replaced them.
    pub failed_restores: u64,
    /// Templates that could not be loaded. Each is checked before its next use, and removed if it is damaged.
    pub discarded_templates: u64,
}

impl Counters {
    /// Counts a VM from this origin.
    pub(super) fn count(&self, origin: VmOrigin) {
        let [hot, standby, hot_image, template, boot, checkpoint] = &self.by_origin;
        let counter = match origin {
            VmOrigin::Hot => hot,
            VmOrigin::Standby => standby,
            VmOrigin::HotImage => hot_image,
            VmOrigin::Template => template,
            VmOrigin::Boot => boot,
            VmOrigin::Checkpoint => checkpoint,
        };

        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a restore that failed.
    pub(super) fn count_failed_restore(&self) {
        self.failed_restores.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a template that could not be loaded.
    pub(super) fn count_discarded_template(&self) {
        self.discarded_templates.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn read(&self) -> VmStats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let [hot, standby, hot_image, template, boot, checkpoint] = &self.by_origin;
        VmStats {
            hot: read(hot),
            standby: read(standby),
            hot_image: read(hot_image),
            template: read(template),
            boot: read(boot),
            checkpoint: read(checkpoint),
            failed_restores: read(&self.failed_restores),
            discarded_templates: read(&self.discarded_templates),
        }
    }
}
