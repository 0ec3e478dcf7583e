//! The guest's kernel.

use super::cached::{self, Kernel};
use super::source::Source;
use super::{debian, source_build};
use crate::Error;
use crate::hash::Fields;
use crate::options::BuildOptions;
use crate::progress::{StepEnd, StepProgress};
use crate::store::{KernelChoice, Store};

/// Which kernel, and from where.
pub(crate) enum KernelPlan {
    /// Built from source.
    Own(Source),
    /// Debian's, of this suite.
    Debian(String),
}

impl KernelPlan {
    /// Looks for what the chosen kernel is made from.
    pub(crate) fn new(options: &BuildOptions) -> Result<Self, Error> {
        match options.kernel {
            KernelChoice::Own => Source::find(&options.suite).map(Self::Own),
            KernelChoice::Debian => Ok(Self::Debian(options.suite.clone())),
        }
    }

    /// What the kernel is made from, as one hash.
    pub(crate) fn key(&self) -> String {
        match self {
            Self::Own(source) => source_build::key(source),
            Self::Debian(suite) => Fields::default().add("debian kernel", suite).finish(),
        }
    }

    /// The kernel from the cache, or else made. `refresh` fetches Debian's kernel again.
    pub(crate) fn obtain(
        &self,
        store: &Store,
        options: &BuildOptions,
        progress: &mut StepProgress<'_>,
    ) -> Result<(Kernel, StepEnd), Error> {
        let cached = store.cache("kernel").join(self.key());
        let refetch = options.refresh && matches!(self, Self::Debian(_));
        if let Some(kernel) = cached::load(&cached).filter(|_| !refetch) {
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

        cached::move_to_cache(&finished, &cached)?;
        let kernel = cached::load(&cached).ok_or_else(|| Error::Inconsistent {
            item: "kernel",
            reason: "it cannot be read back".to_owned(),
        })?;

        Ok((kernel, StepEnd::Done))
    }
}
