//! The guest's kernel.

use super::cached::{self, Kernel};
use super::source::Source;
use super::{debian, source_build};
use crate::Error;
use crate::hash::Fields;
use crate::options::BuildOptions;
use crate::progress::{Advance, StepEnd};
use crate::store::{KernelChoice, Store};

/// Which kernel, and from where.
pub(crate) enum Plan {
    /// Built from source.
    Own(Source),
    /// Debian's, of this suite.
    Debian(String),
}

impl Plan {
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
        advance: &mut Advance<'_>,
    ) -> Result<(Kernel, StepEnd), Error> {
        let cached = store.cache("kernel").join(self.key());
        let again = options.refresh && matches!(self, Self::Debian(_));
        if let Some(kernel) = cached::load(&cached).filter(|_| !again) {
            return Ok((kernel, StepEnd::Cached));
        }
        if matches!(self, Self::Own(_)) {
            store.require_space(source_build::REQUIRED_BYTES)?;
        }
        let work = store.work_dir()?;
        let finished = match self {
            Self::Own(source) => source_build::make(source, work.path(), options.jobs, advance)?,
            Self::Debian(suite) => debian::make(suite, work.path(), advance)?,
        };
        cached::keep(&finished, &cached)?;
        let kernel = cached::load(&cached).ok_or_else(|| Error::Inconsistent {
            what: "kernel",
            why: "it cannot be read back".to_owned(),
        })?;
        Ok((kernel, StepEnd::Done))
    }
}
