//! Debian's own kernel for cloud machines, with the modules that a guest needs.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::cached;
use crate::progress::StepProgress;
use crate::store::{KernelChoice, KernelRecord};
use crate::tools::mmdebstrap::{self, Request, Variant};
use crate::tools::program::{Program, missing_programs};
use crate::{Error, hash};

/// The package that depends on the suite's newest kernel.
const PACKAGE: &str = "linux-image-cloud-amd64";
/// The modules of the agent's devices and file systems. Names that are compiled into the kernel are skipped.
const MODULES: [&str; 8] = [
    "virtio_mmio",
    "virtio_blk",
    "virtio_console",
    "virtio_rng",
    "virtio_balloon",
    "virtio_net",
    "erofs",
    "overlay",
];
/// The deadline of each program. Fetching takes ten seconds with a nearby mirror.
const TIMEOUT: Duration = Duration::from_secs(30 * 60);

/// Returns errors for what fetching the kernel needs and is missing.
pub(super) fn missing_prerequisites() -> Vec<Error> {
    let purpose = "required to unpack Debian's kernel modules";
    let mut missing = missing_programs(&[("xz", "xz-utils"), ("tar", "tar")], purpose);
    missing.extend(mmdebstrap::missing_prerequisites());
    missing
}

/// Fetches the kernel. The returned directory is ready for the cache.
pub(super) fn fetch(
    suite: &str,
    work: &Path,
    progress: &mut StepProgress<'_>,
) -> Result<PathBuf, Error> {
    // Fetch the package and its dependencies as one archive.
    let (archive, tree) = (work.join("kernel.tar"), work.join("kernel"));
    let request = Request {
        task: "fetching Debian's kernel",
        variant: Variant::Extract,
        packages: &[PACKAGE],
        suite,
        options: &[],
    };
    mmdebstrap::run(&request, &archive, work, TIMEOUT, &mut |line| {
        progress.line(line)
    })?;

    fs::create_dir(&tree).map_err(Error::io("create", &tree))?;
    Program::new("unpacking Debian's kernel", "tar", TIMEOUT)
        .arg("-xf")
        .arg(&archive)
        .args(["--no-same-owner", "--exclude=./dev/*", "-C"])
        .arg(&tree)
        .run(&mut |_| {})?;

    collect(&tree, &work.join("finished"))
}

/// Moves the kernel and its modules into the finished directory and records their hashes.
fn collect(tree: &Path, finished: &Path) -> Result<PathBuf, Error> {
    // The kernel: its file name ends with the release.
    let boot = tree.join("boot");
    let image = find_with_prefix(&boot, "vmlinuz-")?;
    let name = image
        .file_name()
        .and_then(|n| n.to_str())
        .unwrap_or_default();
    let release = name.trim_start_matches("vmlinuz-").to_owned();

    fs::create_dir(finished).map_err(Error::io("create", finished))?;
    let target = finished.join(cached::IMAGE);
    fs::rename(&image, &target).map_err(Error::io("move", &image))?;

    // The modules, named in load order.
    let mut modules = ModuleIndex::read(&tree.join("usr/lib/modules").join(&release))?;
    let mut names = Vec::new();
    for (index, file) in modules.load_order(&MODULES)?.iter().enumerate() {
        let stem = file
            .file_stem()
            .and_then(|s| s.to_str())
            .unwrap_or_default();
        let name = format!("{index:02}-{stem}.ko");
        fs::rename(file, finished.join(&name)).map_err(Error::io("move", file))?;
        names.push(name);
    }

    let record = KernelRecord {
        kind: KernelChoice::Debian,
        package: format!("linux-image-{release}"),
        version: package_version(&target)?,
        config_sha256: hash::of_path(&boot.join(format!("config-{release}")))?,
        release,
    };
    cached::seal(finished, record, &names)?;

    Ok(finished.to_path_buf())
}

/// Returns a file of the directory whose name starts with `prefix`.
fn find_with_prefix(directory: &Path, prefix: &str) -> Result<PathBuf, Error> {
    let entries = fs::read_dir(directory).map_err(Error::io("read", directory))?;
    let mut found = entries
        .filter_map(|e| e.ok().map(|e| e.path()))
        .filter(|path| {
            path.file_name()
                .and_then(|n| n.to_str())
                .is_some_and(|n| n.starts_with(prefix))
        });

    found.next().ok_or_else(|| Error::Inconsistent {
        item: "kernel package",
        reason: format!("no file {prefix}* in {}", directory.display()),
    })
}

/// Returns the Debian version at the end of the version text in the kernel's own header, such as
/// `6.12.9-cloud-amd64 (…) #1 SMP … Debian 6.12.9-1 (2026-01-01)`.
fn package_version(image: &Path) -> Result<String, Error> {
    /// The offset of the boot protocol's pointer to the text. The pointer is the text's offset minus 512.
    const POINTER: usize = 0x20e;

    let bytes = fs::read(image).map_err(Error::io("read", image))?;
    // The text ends with a zero byte.
    let text = bytes
        .get(POINTER..POINTER + 2)
        .map(|p| 512 + usize::from(u16::from_le_bytes([p[0], p[1]])))
        .and_then(|at| bytes.get(at..))
        .and_then(|rest| rest.split(|b| *b == 0).next())
        .map(String::from_utf8_lossy)
        .unwrap_or_default();

    let version = text
        .rsplit_once(" Debian ")
        .map(|(_, v)| v.split(' ').next().unwrap_or(v));

    Ok(version.unwrap_or("unknown").to_owned())
}

/// The modules of one kernel by name.
struct ModuleIndex(BTreeMap<String, PathBuf>);

impl ModuleIndex {
    fn read(directory: &Path) -> Result<Self, Error> {
        let mut modules = Self(BTreeMap::new());
        modules.add(directory)?;
        Ok(modules)
    }

    fn add(&mut self, directory: &Path) -> Result<(), Error> {
        for found in fs::read_dir(directory).map_err(Error::io("read", directory))? {
            let path = found.map_err(Error::io("read", directory))?.path();
            let name = path
                .file_name()
                .and_then(|n| n.to_str())
                .unwrap_or_default();

            if path.is_dir() && !path.is_symlink() {
                self.add(&path)?;
            } else if let Some(stem) = name.strip_suffix(".ko.xz").or(name.strip_suffix(".ko")) {
                self.0.insert(stem.replace('-', "_"), path);
            }
        }

        Ok(())
    }

    /// Returns the decompressed files of these modules, each after its dependencies.
    fn load_order(&mut self, names: &[&str]) -> Result<Vec<PathBuf>, Error> {
        let mut order = Vec::new();
        for name in names {
            self.visit(name, &mut order)?;
        }
        Ok(order)
    }

    /// Visiting a module removes it from the index, so that no module is listed twice.
    fn visit(&mut self, name: &str, order: &mut Vec<PathBuf>) -> Result<(), Error> {
        let Some(path) = self.0.remove(&name.replace('-', "_")) else {
            return Ok(());
        };

        let path = decompress(path)?;
        let bytes = fs::read(&path).map_err(Error::io("read", &path))?;
        for needed in dependencies(&bytes) {
            self.visit(&needed, order)?;
        }

        order.push(path);
        Ok(())
    }
}

fn decompress(path: PathBuf) -> Result<PathBuf, Error> {
    if path.extension().is_none_or(|e| e != "xz") {
        return Ok(path);
    }

    Program::new("unpacking a kernel module", "xz", TIMEOUT)
        .arg("-d")
        .arg(&path)
        .run(&mut |_| {})?;

    Ok(path.with_extension(""))
}

/// Returns the names from the `depends=a,b` and `softdep=pre: c d` strings of a module.
fn dependencies(module: &[u8]) -> Vec<String> {
    let mut found = Vec::new();
    for text in module.split(|b| *b == 0) {
        let Ok(text) = std::str::from_utf8(text) else {
            continue;
        };

        if let Some(names) = text.strip_prefix("depends=") {
            found.extend(
                names
                    .split(',')
                    .filter(|n| !n.is_empty())
                    .map(str::to_owned),
            );
        }

        if let Some(names) = text.strip_prefix("softdep=pre: ") {
            let names = names.split(" post:").next().unwrap_or_default();
            found.extend(names.split_whitespace().map(str::to_owned));
        }
    }

    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_modules_after_their_dependencies() {
        let directory = tempfile::tempdir().unwrap();
        let put = |name: &str, text: &[u8]| fs::write(directory.path().join(name), text).unwrap();
        put("net.ko", b"\x7f\xff\0license=GPL\0depends=fail-over,ring\0");
        put(
            "fail_over.ko",
            b"\0depends=\0softdep=pre: soft post: later\0",
        );
        put("soft.ko", b"\0depends=ring\0");
        put("ring.ko", b"\0depends=\0");
        put("later.ko", b"\0depends=\0");
        let mut modules = ModuleIndex::read(directory.path()).unwrap();
        let order = modules.load_order(&["net", "built_in", "ring"]).unwrap();
        let names: Vec<_> = order
            .iter()
            .map(|p| p.file_stem().unwrap().to_str().unwrap())
            .collect();

        assert_eq!(names, ["ring", "soft", "fail_over", "net"]);
    }
}
