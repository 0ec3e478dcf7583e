//! The steps of a build, from the inputs to the installed image.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::recipe::Recipe;
use super::{initrd, prerequisites};
use crate::clock::unix_seconds;
use crate::kernel::{Kernel, KernelPlan};
use crate::options::BuildOptions;
use crate::progress::{Progress, StepEnd, Steps};
use crate::rootfs::{self, base_packages};
use crate::store::{
    Artifact, FORMAT, Identities, Identity, Image, Manifest, PARTS, PartRecord, Store,
    save_identities, sync_directory, sync_file,
};
use crate::tools::bun::{self, BUN};
use crate::tools::download::Pinned;
use crate::tools::uv::{self, UV};
use crate::{Error, hash};

/// The result of a build.
#[derive(Debug)]
pub struct BuildReport {
    /// Whether a new image was built.
    pub outcome: BuildOutcome,
    /// The image.
    pub image: Image,
}

/// Whether a build had to do any work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BuildOutcome {
    /// A new image was built.
    Built,
    /// The existing image was built from the same inputs and is intact.
    UpToDate,
}

/// Disk space for the packages' archive, the tree made from it and its image (measured: 0.22, 0.37 and 0.36
/// GB), and for uv and bun, packed and unpacked.
const REQUIRED_BYTES: u64 = 1_300_000_000;

/// What an image is assembled from, besides the agent and the host's certificates.
struct Inputs {
    kernel: Kernel,
    /// The archive of Debian packages.
    base: PathBuf,
    uv: PathBuf,
    bun: PathBuf,
}

/// The results of all steps before the last one.
struct BuiltParts {
    kernel: Kernel,
    packages: BTreeMap<String, String>,
    /// The directory that becomes the image. It already contains the root file system.
    directory: PathBuf,
}

/// Builds the image that `options` describe, unless an up-to-date image exists. Builds in one store run one
/// after another. An interrupted build leaves nothing that a later build would take for finished.
///
/// # Errors
/// Each error names the step, the reason and the fix.
///
/// ```no_run
/// use fumehood_image::{BuildOptions, NoProgress, Store, build};
///
/// # fn main() -> Result<(), fumehood_image::Error> {
/// let store = Store::open(Store::default_root()?)?;
/// let options = BuildOptions::new("target/x86_64-unknown-linux-gnu/guest/fumehood-agent");
/// let report = build(&store, &options, &mut NoProgress)?;
/// println!("{:?}: {}", report.outcome, report.image.id());
/// # Ok(())
/// # }
/// ```
pub fn build(
    store: &Store,
    options: &BuildOptions,
    progress: &mut dyn Progress,
) -> Result<BuildReport, Error> {
    let recipe = Recipe::read(options)?;
    let _lock = store.lock(|| progress.waiting())?;

    if let Some(image) = up_to_date_image(store, options, &recipe) {
        return Ok(BuildReport {
            outcome: BuildOutcome::UpToDate,
            image,
        });
    }

    run_steps(store, options, &recipe, &mut Steps::new(progress))?;

    // The caches hold the inputs of this image now; older ones may go.
    for cache in ["kernel", "base", "downloads"] {
        store.prune(cache)?;
    }

    Ok(BuildReport {
        outcome: BuildOutcome::Built,
        image: store.image(&options.name)?,
    })
}

/// Builds and fetches the inputs that do not need the agent, and caches them for a later [`build`] with the same
/// options: the kernel, the packages' archive, uv and bun. They are most of the work, and it can be done while the
/// agent is compiled. `options.agent` is ignored.
///
/// # Errors
/// As [`build`].
pub fn prepare_inputs(
    store: &Store,
    options: &BuildOptions,
    progress: &mut dyn Progress,
) -> Result<(), Error> {
    let plan = KernelPlan::new(options)?;
    let _lock = store.lock(|| progress.waiting())?;
    obtain_inputs(store, options, &plan, &mut Steps::new(progress))?;

    Ok(())
}

/// Builds or fetches the inputs of an image, or takes them from the caches.
fn obtain_inputs(
    store: &Store,
    options: &BuildOptions,
    plan: &KernelPlan,
    steps: &mut Steps<'_>,
) -> Result<Inputs, Error> {
    prerequisites::require(store, options, plan)?;

    let kernel = steps.run(|progress| plan.obtain(store, options, progress))?;
    store.require_space(REQUIRED_BYTES)?;
    let base = steps
        .run(|progress| base_packages::obtain(store, &options.suite, options.refresh, progress))?;
    let uv = steps.run(|_| uv::obtain(store))?;
    let bun = steps.run(|_| bun::obtain(store))?;

    Ok(Inputs {
        kernel,
        base,
        uv,
        bun,
    })
}

/// Returns the existing image if it was built from the same inputs and is intact.
fn up_to_date_image(store: &Store, options: &BuildOptions, recipe: &Recipe) -> Option<Image> {
    if options.refresh {
        return None;
    }

    store
        .image(&options.name)
        .ok()
        .filter(|image| image.manifest().inputs == recipe.key)
}

/// Runs all steps of a build and installs the image.
fn run_steps(
    store: &Store,
    options: &BuildOptions,
    recipe: &Recipe,
    steps: &mut Steps<'_>,
) -> Result<(), Error> {
    let Inputs {
        kernel,
        base,
        uv,
        bun,
    } = obtain_inputs(store, options, &recipe.kernel, steps)?;

    // Assemble and pack the root file system.
    let work = store.work_dir()?;
    let directory = work.path().join("image");
    fs::create_dir(&directory).map_err(Error::io("create", &directory))?;
    let packages = steps.run(|progress| {
        let inputs = rootfs::TreeInputs {
            base: &base,
            uv: &uv,
            bun: &bun,
            ca: recipe.ca.as_deref(),
            extra: &options.extra_files,
        };

        progress.line("unpacking and cleaning");
        let tree = work.path().join("tree");
        let packages = rootfs::assemble(&inputs, &tree, work.path())?;

        progress.line("packing");
        rootfs::pack(&tree, options.format, &directory.join(PARTS[2].1))?;

        Ok((packages, StepEnd::Done))
    })?;

    // Add the other parts and install the image.
    steps.run(|_| {
        let built = BuiltParts {
            kernel,
            packages,
            directory,
        };

        let manifest = assemble_image(&built, options, recipe)?;
        store.install(&options.name, &manifest, &built.directory)?;
        Ok(((), StepEnd::Done))
    })
}

/// Adds the kernel and the initial file system to the image's directory, then hashes and flushes all files.
fn assemble_image(
    built: &BuiltParts,
    options: &BuildOptions,
    recipe: &Recipe,
) -> Result<Manifest, Error> {
    // Add the kernel and the initial file system; the root file system is there already.
    let directory = &built.directory;
    let [kernel, initrd, _] = PARTS.map(|(_, file)| directory.join(file));
    fs::copy(&built.kernel.image, &kernel).map_err(Error::io("copy the kernel to", &kernel))?;
    let archive = initrd::build(&recipe.agent, &built.kernel.modules)?;
    fs::write(&initrd, archive).map_err(Error::io("write", &initrd))?;

    // Hash all parts.
    let mut identities = Identities::new();
    let mut parts = Vec::new();
    for (name, file) in PARTS {
        let (record, identity) = seal_part(directory, name, file)?;
        identities.insert(name.to_owned(), identity);
        parts.push(record);
    }

    // Write the manifest.
    let manifest = manifest_for(parts, built, options, recipe);
    let path = directory.join("manifest.json");
    let text =
        serde_json::to_vec_pretty(&manifest).map_err(|e| Error::io("write", &path)(e.into()))?;
    fs::write(&path, text).map_err(Error::io("write", &path))?;
    set_mode(&path, 0o644)?;
    set_mode(directory, 0o755)?;
    sync_file(&path)?;

    save_identities(directory, &identities)?;
    sync_directory(directory)?;

    Ok(manifest)
}

/// Sets the mode of a part, which must not depend on the umask.
fn set_mode(path: &Path, mode: u32) -> Result<(), Error> {
    let mode = fs::Permissions::from_mode(mode);
    fs::set_permissions(path, mode).map_err(Error::io("set the mode of", path))
}

/// Flushes a part to the disk and hashes it.
fn seal_part(directory: &Path, name: &str, file: &str) -> Result<(PartRecord, Identity), Error> {
    let path = directory.join(file);

    // QEMU runs as another user and reopens the part through its descriptor.
    set_mode(&path, 0o644)?;

    sync_file(&path)?;
    let mut open = File::open(&path).map_err(Error::io("open", &path))?;
    let identity = Identity::of(&open, &path)?;
    let sha256 = hash::of_file(&mut open, &path)?;
    let bytes = open.metadata().map_err(Error::io("inspect", &path))?.len();
    let record = PartRecord {
        name: name.to_owned(),
        file: file.to_owned(),
        sha256,
        bytes,
    };

    Ok((record, identity))
}

/// Returns the manifest of an image with these parts.
fn manifest_for(
    parts: Vec<PartRecord>,
    built: &BuiltParts,
    options: &BuildOptions,
    recipe: &Recipe,
) -> Manifest {
    let artifact = |pinned: &Pinned| Artifact {
        name: pinned.name.to_owned(),
        version: pinned.version.to_owned(),
        sha256: pinned.sha256.to_owned(),
    };

    Manifest {
        format: FORMAT,
        id: Manifest::id_of(&recipe.key, &parts),
        inputs: recipe.key.clone(),
        created: unix_seconds(),
        parts,
        kernel: built.kernel.record.clone(),
        suite: options.suite.clone(),
        packages: built.packages.clone(),
        artifacts: [UV, BUN].iter().map(artifact).collect(),
        agent_sha256: recipe.agent_sha256.clone(),
        ca_sha256: recipe.ca_sha256.clone(),
    }
}
