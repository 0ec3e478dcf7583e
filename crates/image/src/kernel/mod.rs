//! The guest's kernel.

mod debian;
mod entry;
mod fragment;
mod own;
mod source;

use std::path::PathBuf;

use self::source::Source;
use crate::manifest::KernelRecord;
use crate::options::{BuildOptions, KernelChoice};
use crate::progress::{Advance, StepEnd};
use crate::store::Store;
use crate::{Error, hash::Fields};

/// The lines that make the guest's kernel what it is.
pub(crate) const FRAGMENT: &str = include_str!("../../kernel/fragment.config");
/// What software emulation makes slow. It lets the command line name the frequency of the local APIC's
/// timer, which a virtual machine knows, and measuring takes 0.3 of 0.53 seconds of boot; keeps a hash
/// of the random number generator a loop, 1,550 instructions fewer to translate; and turns off a
/// timer that would be started at every wake-up.
pub(crate) const PATCH: &str = include_str!("../../kernel/emulation.patch");

/// A kernel ready to be put into an image.
pub(crate) struct Kernel {
    /// The kernel: an uncompressed, stripped `vmlinux`, or Debian's `vmlinuz`.
    pub(crate) image: PathBuf,
    /// Modules the agent loads, in this order: names and files.
    pub(crate) modules: Vec<(String, PathBuf)>,
    /// Where it comes from.
    pub(crate) record: KernelRecord,
}

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
            Self::Own(source) => own::key(source),
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
        if let Some(kernel) = entry::load(&cached).filter(|_| !again) {
            return Ok((kernel, StepEnd::Cached));
        }
        if matches!(self, Self::Own(_)) {
            store.need_room(own::ROOM)?;
        }
        let work = store.work_dir()?;
        let finished = match self {
            Self::Own(source) => own::make(source, work.path(), options.jobs, advance)?,
            Self::Debian(suite) => debian::make(suite, work.path(), advance)?,
        };
        entry::keep(&finished, &cached)?;
        let kernel = entry::load(&cached).ok_or_else(|| Error::Inconsistent {
            what: "kernel",
            why: "it cannot be read back".to_owned(),
        })?;
        Ok((kernel, StepEnd::Done))
    }
}
