//! The prerequisites of a build on the host, checked before it starts.

use std::collections::BTreeSet;

use crate::Error;
use crate::kernel::KernelPlan;
use crate::options::BuildOptions;
use crate::rootfs::{self, base_packages};
use crate::store::Store;
use crate::tools::{bun, uv};

/// Returns everything that this user and this machine lack for a build with these options. Parts that are in the
/// caches need nothing. The agent is ignored.
#[must_use]
pub fn missing_prerequisites(store: &Store, options: &BuildOptions) -> Vec<Error> {
    let kernel = match KernelPlan::new(options) {
        Ok(plan) => plan.missing_prerequisites(store, options),
        Err(error) => vec![error],
    };
    missing(store, options, kernel)
}

/// Returns an error that names everything that is missing. A build takes minutes, and must not fail at its last step
/// for a program that it could have looked for at its start.
pub(super) fn require(
    store: &Store,
    options: &BuildOptions,
    plan: &KernelPlan,
) -> Result<(), Error> {
    let kernel = plan.missing_prerequisites(store, options);
    let mut missing = missing(store, options, kernel);
    match missing.len() {
        0 => Ok(()),
        1 => Err(missing.remove(0)),
        _ => Err(Error::MissingPrerequisites(missing)),
    }
}

/// Adds the missing prerequisites of the other parts to those of the kernel.
fn missing(store: &Store, options: &BuildOptions, kernel: Vec<Error>) -> Vec<Error> {
    let mut missing = kernel;
    missing.extend(base_packages::missing_prerequisites(store, options));
    missing.extend(uv::missing_prerequisites(store));
    missing.extend(bun::missing_prerequisites(store));
    missing.extend(rootfs::missing_prerequisites());

    // Several parts need the same programs.
    let mut seen = BTreeSet::new();
    missing.retain(|error| {
        seen.insert(match error {
            Error::MissingProgram { program, .. } => program.clone(),
            other => other.to_string(),
        })
    });
    missing
}
