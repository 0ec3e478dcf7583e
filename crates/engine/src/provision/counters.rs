use std::sync::atomic::{AtomicU64, Ordering};

use crate::run::VmOrigin;

/// Counts where VMs came from, and what failed. Read as [`VmStats`].
#[derive(Debug, Default)]
pub(crate) struct Counters {
    by_origin: [AtomicU64; 5],
    failed_restores: AtomicU64,
    failed_continuations: AtomicU64,
    discarded_templates: AtomicU64,
    failed_hot_images: AtomicU64,
}

/// How often VMs came from which origin since the engine was started. Returned by
/// [`Engine::vm_stats`](crate::Engine::vm_stats).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct VmStats {
    /// [`VmOrigin::Hot`].
    pub hot: u64,
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
    /// VMs that did not continue from a hot image or from the saved process of a checkpoint; a restore replaced them.
    pub failed_continuations: u64,
    /// Templates that could not be loaded. Each is checked before its next use, and removed if it is damaged.
    pub discarded_templates: u64,
    /// Hot images that could not be created. Creating one is tried again after a delay.
    pub failed_hot_images: u64,
}

impl Counters {
    /// Counts a VM from this origin.
    pub(super) fn count(&self, origin: VmOrigin) {
        let [hot, hot_image, template, boot, checkpoint] = &self.by_origin;
        let counter = match origin {
            VmOrigin::Hot => hot,
            VmOrigin::HotImage => hot_image,
            VmOrigin::Template => template,
            VmOrigin::Boot => boot,
            VmOrigin::Checkpoint => checkpoint,
        };

        add_one(counter);
    }

    /// Counts a restore that failed.
    pub(super) fn count_failed_restore(&self) {
        add_one(&self.failed_restores);
    }

    /// Counts a VM that did not continue.
    pub(super) fn count_failed_continuation(&self) {
        add_one(&self.failed_continuations);
    }

    /// Counts a template that could not be loaded.
    pub(super) fn count_discarded_template(&self) {
        add_one(&self.discarded_templates);
    }

    /// Counts a hot image that could not be created.
    pub(super) fn count_failed_hot_image(&self) {
        add_one(&self.failed_hot_images);
    }

    pub(crate) fn read(&self) -> VmStats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let [hot, hot_image, template, boot, checkpoint] = &self.by_origin;
        VmStats {
            hot: read(hot),
            hot_image: read(hot_image),
            template: read(template),
            boot: read(boot),
            checkpoint: read(checkpoint),
            failed_restores: read(&self.failed_restores),
            failed_continuations: read(&self.failed_continuations),
            discarded_templates: read(&self.discarded_templates),
            failed_hot_images: read(&self.failed_hot_images),
        }
    }
}

fn add_one(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
