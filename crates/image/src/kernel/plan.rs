//! The choice of the kernel, and its way from the cache or a build into the image.

use std::path::PathBuf;

use super::cached::{self, Kernel};
use super::source::Source;
use super::{debian, source_build};
use crate::Error;
use crate::hash::Fields;
use crate::options::BuildOptions;
use crate::progress::{StepEnd, StepProgress};
use crate::store::{KernelChoice, Store};

/// The chosen kernel and its source.
pub(crate) enum KernelPlan {
    /// A kernel built from this source.
    Own(Source),
    /// Debian's kernel from this suite.
    Debian(String),
}

impl KernelPlan {
    /// Locates the source of the chosen kernel.
    pub(crate) fn new(options: &BuildOptions) -> Result<Self, Error> {
        match options.kernel {
            KernelChoice::Own => Source::find(&options.suite).map(Self::Own),
            KernelChoice::Debian => Ok(Self::Debian(options.suite.clone())),
        }
    }

    /// Returns a hash of everything that the kernel is built from.
    pub(crate) fn key(&self) -> String {
        match self {
            Self::Own(source) => source_build::key(source),
            Self::Debian(suite) => Fields::default().add("debian kernel", suite).finish(),
        }
    }

    /// Returns errors for what building or fetching the kernel needs and is missing. A cached kernel needs nothing.
    pub(crate) fn missing_prerequisites(
        &self,
        store: &Store,
        options: &BuildOptions,
    ) -> Vec<Error> {
        if cached::exists(&self.path(store)) && !self.must_refetch(options) {
            return Vec::new();
        }

        match self {
            Self::Own(source) => {
                let mut missing = source_build::missing_prerequisites();
                missing.extend(source.missing_prerequisites());
                missing
            }
            Self::Debian(_) => debian::missing_prerequisites(),
        }
    }

    fn path(&self, store: &Store) -> PathBuf {
        store.cache("kernel").join(self.key())
    }

    /// A kernel from source changes only with its key; Debian's may have a newer version.
    fn must_refetch(&self, options: &BuildOptions) -> bool {
        options.refresh && matches!(self, Self::Debian(_))
    }

    /// Returns the kernel from the cache, or builds it. With `options.refresh`, Debian's kernel is fetched
    /// again.
    pub(crate) fn obtain(
        &self,
        store: &Store,
        options: &BuildOptions,
        progress: &mut StepProgress<'_>,
    ) -> Result<(Kernel, StepEnd), Error> {
        let cached = self.path(store);
        if let Some(kernel) = cached::load(&cached).filter(|_| !self.must_refetch(options)) {
            return Ok((kernel, StepEnd::Cached));
        }

        if matches!(self, Self::Own(_)) {
            store.require_space(source_build::REQUIRED_BYTES)?;
        }

        let work = store.work_dir()?;
        let finished = match self {
            Self::Own(source) => {
                source_build::build_from_source(source, work.path(), options.jobs, progress)?
            }
            Self::Debian(suite) => debian::fetch(suite, work.path(), progress)?,
        };

        // Read it back from the cache, as a later build will.
        cached::move_to_cache(&finished, &cached)?;
        let kernel = cached::load(&cached).ok_or_else(|| Error::Inconsistent {
            item: "kernel",
            reason: "its files do not match the record just written".to_owned(),
        })?;

        Ok((kernel, StepEnd::Done))
    }
}
