//! The kernel of the emulated host: the distribution's, with KVM as a module.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail};

use crate::packages::is_root;
use crate::shell::run;

/// The package whose dependency is the kernel's current package.
const PACKAGE: &str = "linux-image-amd64";

/// The modules that the host needs, in an order in which most can be loaded: its disk, its file systems, KVM. Those that
/// a kernel has built in are not in its package.
const MODULES: [&str; 15] = [
    "virtio",
    "virtio_ring",
    "virtio_pci_modern_dev",
    "virtio_pci_legacy_dev",
    "virtio_pci",
    "netfs",
    "fscache",
    "9pnet",
    "9pnet_virtio",
    "9p",
    "overlay",
    "irqbypass",
    "ccp",
    "kvm",
    "kvm-amd",
];

/// A kernel in the cache.
pub(super) struct Kernel {
    pub(super) image: PathBuf,
    /// The file name and the path of each module.
    pub(super) modules: Vec<(String, PathBuf)>,
}

/// Whether this system's packages include the kernel.
pub(super) fn is_available() -> bool {
    package_name().is_ok()
}

impl Kernel {
    /// Returns the kernel in this cache. It is downloaded by apt, with all settings of this system, if it is not there.
    ///
    /// # Errors
    /// Fails if this system is not Debian, or the package cannot be downloaded.
    pub(super) fn prepare(cache: &Path) -> anyhow::Result<Self> {
        let package = package_name()?;
        let directory = cache.join(&package);
        if !directory.exists() {
            fs::create_dir_all(cache)?;
            let fresh = cache.join(format!("{package}.{}", std::process::id()));
            let result = unpack(&package, &fresh);
            if result.is_ok() {
                // If another process was faster, its directory is as good.
                let _ = fs::rename(&fresh, &directory);
            }
            let _ = fs::remove_dir_all(&fresh);
            result?;
        }

        Self::open(&directory)
    }

    fn open(directory: &Path) -> anyhow::Result<Self> {
        let in_package = |name: &&str| {
            let path = directory.join(format!("{name}.ko"));
            path.exists().then(|| (format!("{name}.ko"), path))
        };
        let modules: Vec<_> = MODULES.iter().filter_map(in_package).collect();
        if !modules.iter().any(|(name, _)| name == "kvm-amd.ko") {
            bail!("the kernel in {} has no KVM", directory.display());
        }

        Ok(Self {
            image: directory.join("vmlinuz"),
            modules,
        })
    }
}

/// Returns the name of the kernel's package, as `linux-image-6.1.0-1-amd64`.
fn package_name() -> anyhow::Result<String> {
    let depends = || -> anyhow::Result<Option<String>> {
        let output = Command::new("apt-cache")
            .args(["depends", "--important", PACKAGE])
            .stderr(Stdio::null())
            .output()
            .context("apt-cache")?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let mut names = text
            .lines()
            .filter_map(|line| line.trim().strip_prefix("Depends: "));
        Ok(names.next().map(str::to_owned))
    };

    if let Some(name) = depends()? {
        return Ok(name);
    }
    if is_root() {
        run(Command::new("apt-get").args(["update", "-q"]))?;
    }
    depends()?.with_context(|| {
        format!("the emulated host runs Debian's kernel, and apt knows no package {PACKAGE} here")
    })
}

/// Downloads a package, and puts the kernel and its modules into this directory.
fn unpack(package: &str, directory: &Path) -> anyhow::Result<()> {
    let tree = directory.join("tree");
    fs::create_dir_all(&tree)?;
    run(Command::new("apt-get")
        .args(["download", "-q", package])
        .current_dir(directory))?;

    let downloaded = files_below(directory)?
        .into_iter()
        .find(|path| path.extension().is_some_and(|extension| extension == "deb"));
    let downloaded = downloaded.context("apt-get has downloaded no package")?;
    run(Command::new("dpkg-deb")
        .arg("-x")
        .args([&downloaded, &tree]))?;

    let files: HashMap<String, PathBuf> = files_below(&tree)?
        .into_iter()
        .filter_map(|path| Some((path.file_name()?.to_str()?.to_owned(), path)))
        .collect();
    let image = files
        .iter()
        .find(|(name, _)| name.starts_with("vmlinuz-"))
        .context("the package contains no kernel")?;
    fs::copy(image.1, directory.join("vmlinuz"))?;

    for module in MODULES {
        let place = directory.join(format!("{module}.ko"));
        if let Some(path) = files.get(&format!("{module}.ko")) {
            fs::copy(path, place)?;
        } else if let Some(path) = files.get(&format!("{module}.ko.xz")) {
            let output = fs::File::create(place)?;
            run(Command::new("xz").arg("-dc").arg(path).stdout(output))?;
        }
    }

    fs::remove_dir_all(&tree)?;
    fs::remove_file(&downloaded)?;
    Ok(())
}

/// Returns all files below a directory.
fn files_below(directory: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut directories = vec![directory.to_path_buf()];

    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                directories.push(entry.path());
            } else {
                found.push(entry.path());
            }
        }
    }

    Ok(found)
}
