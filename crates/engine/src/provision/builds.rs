//! Building templates and hot images, and which of them requests have missed.

use std::collections::HashSet;
use std::sync::{MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use fumehood_protocol::PROTOCOL_VERSION;

use super::provisioner::Provisioner;
use crate::config::TemplateUse;
use crate::error::{Error, ErrorKind};
use crate::run::VmOrigin;
use crate::snapshot::{BuildResult, TemplateSpec};

/// Maximum number of specifications that wait for a build. Further ones are requested again by the next run.
const MAX_MISSING: usize = 64;

impl Provisioner {
    /// Records that a VM of this specification could have started faster: the template or the hot image is missing. The
    /// replenisher builds it, if the configuration allows that.
    pub(super) fn request_missing(&self, spec: &TemplateSpec, source: VmOrigin, protocol: u32) {
        let lacks_image = match source {
            VmOrigin::Template => protocol == PROTOCOL_VERSION && self.hot_images.needs_build(spec),
            _ => false,
        };
        let is_wanted = match self.config.templates {
            TemplateUse::Never => false,
            // A program that runs once builds no templates.
            TemplateUse::Use => lacks_image,
            TemplateUse::UseAndBuild => lacks_image || source == VmOrigin::Boot,
        };
        if !is_wanted {
            return;
        }

        let mut missing = self.missing();
        if missing.len() < MAX_MISSING {
            missing.insert(spec.clone());
        }
        drop(missing);
        self.pool.changed.notify_one();
    }

    /// Takes one of the specifications whose template or hot image was missing.
    pub(crate) fn take_missing(&self) -> Option<TemplateSpec> {
        let mut missing = self.missing();
        let next = missing.iter().next()?.clone();
        missing.remove(&next);
        Some(next)
    }

    fn missing(&self) -> MutexGuard<'_, HashSet<TemplateSpec>> {
        self.missing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns whether a template is on disk.
    pub(crate) fn has_template(&self, spec: &TemplateSpec) -> bool {
        self.templates.has(&self.factory, spec)
    }

    /// Returns whether the hot image of a specification exists.
    pub(crate) fn has_hot_image(&self, spec: &TemplateSpec) -> bool {
        self.hot_images.has(&self.templates, &self.factory, spec)
    }

    /// Builds a template, and its hot image where those are used. Returns `false` if both exist. A hot image that cannot be
    /// created is reported in the log: requests use the template then.
    ///
    /// # Errors
    /// As a boot; [`ErrorKind::Host`] if it cannot be saved, [`ErrorKind::Busy`] if another process does not finish it.
    pub(crate) async fn build_template(&self, spec: &TemplateSpec) -> Result<bool, Error> {
        let is_new = self.build_only_template(spec).await?;
        if self.has_hot_image(spec) {
            return Ok(is_new);
        }
        match self.build_hot_image(spec).await {
            Ok(BuildResult::Saved) => Ok(true),
            Ok(_) | Err(_) => Ok(is_new),
        }
    }

    async fn build_only_template(&self, spec: &TemplateSpec) -> Result<bool, Error> {
        const POLL_INTERVAL: Duration = Duration::from_millis(200);

        // Another process may be building the same template: wait for it, within limits.
        let start = Instant::now();

        loop {
            if self.has_template(spec) {
                return Ok(false);
            }

            let deadline = self.config.boot_deadline;
            match self.templates.build(&self.factory, spec, deadline).await? {
                BuildResult::Saved => return Ok(true),
                BuildResult::Unsaved(why) => {
                    let message = format!("cannot save the template: {why}");
                    return Err(Error::new(ErrorKind::Host, message));
                }
                BuildResult::Elsewhere => {}
            }

            if start.elapsed() > self.config.queue_deadline {
                let message = "timed out waiting for another process to build this template";
                return Err(Error::new(ErrorKind::Busy, message));
            }

            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    /// Creates the hot image of a template, or a younger one in its place, if hot images are used and the template exists. A
    /// failure is counted and logged; the next attempt is made after a delay.
    ///
    /// # Errors
    /// As a restore, and [`ErrorKind::Host`] if this host does not support hot images.
    pub(crate) async fn build_hot_image(&self, spec: &TemplateSpec) -> Result<BuildResult, Error> {
        if !self.hot_images.are_used() || !self.has_template(spec) {
            return Ok(BuildResult::Elsewhere);
        }

        let deadline = self.config.boot_deadline;
        let built = self
            .hot_images
            .build(&self.templates, &self.factory, spec, deadline);
        let result = built.await;

        match &result {
            // Requests do not need the template's memory any more; it is read again when they do.
            Ok(BuildResult::Saved) => self.templates.release(&self.factory, spec),
            Ok(BuildResult::Unsaved(why)) => {
                tracing::warn!(why, "saving a hot image failed; only this process has it");
            }
            Ok(BuildResult::Elsewhere) => {}
            Err(error) => {
                self.counters.count_failed_hot_image();
                tracing::warn!(%error, "creating a hot image failed");
            }
        }
        result
    }
}
