//! Assembles the guest's file tree.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use super::bytecode::BytecodeCheck;
use super::commands;
use super::tree::Tree;
use crate::Error;
use crate::options::ExtraFile;
use crate::tools::program::Program;
use crate::tools::{apt, bun, uv};

/// The deadline for unpacking 220 MB.
const TIMEOUT: Duration = Duration::from_secs(10 * 60);
/// Files that no guest needs: documentation, and apt's package lists and settings, which name the host's
/// mirror.
const REMOVED: [&str; 11] = [
    "etc/apt",
    "var/lib/apt",
    "usr/share/doc",
    "usr/share/info",
    "usr/share/lintian",
    "usr/share/locale",
    "usr/share/man",
    "usr/share/bash-completion",
    "etc/.pwd.lock",
    // The hook of a crash reporter. It costs 9 ms at every start of Python under TCG.
    "etc/python3.13/sitecustomize.py",
    "usr/lib/python3.13/sitecustomize.py",
];
/// Directories that are emptied but kept.
const EMPTIED: [&str; 5] = ["var/cache", "var/log", "run", "tmp", "dev"];
/// The directories in which the agent and the guest's programs mount or write.
const DIRECTORIES: [(&str, u32); 9] = [
    ("dev", 0o755),
    ("proc", 0o555),
    ("sys", 0o555),
    ("run", 0o755),
    ("mnt", 0o755),
    ("tmp", 0o1777),
    ("var/tmp", 0o1777),
    ("home", 0o755),
    ("home/user", 0o755),
];
const HOSTS: &str = "127.0.0.1 localhost fumehood\n::1 localhost fumehood\n";
/// The user that runs the guest's programs.
const USER: &str = "user:x:1000:1000::/home/user:/bin/bash\n";
const GROUP: &str = "user:x:1000:\n";
/// The bundle that curl, git, uv, Python and others read on Debian.
const CA_BUNDLE: &str = "etc/ssl/certs/ca-certificates.crt";

/// The inputs of a tree.
pub(crate) struct TreeInputs<'a> {
    /// The archive of Debian's packages.
    pub(crate) base: &'a Path,
    /// uv's wheel.
    pub(crate) uv: &'a Path,
    /// bun's package.
    pub(crate) bun: &'a Path,
    /// The trusted certificates, which replace Debian's own.
    pub(crate) ca: Option<&'a [u8]>,
    /// Additional files.
    pub(crate) extra: &'a [ExtraFile],
}

/// Creates the tree at `root` and returns its Debian packages with their versions. `work` is a directory for
/// unpacking on the same file system.
pub(crate) fn assemble(
    inputs: &TreeInputs<'_>,
    root: &Path,
    work: &Path,
) -> Result<BTreeMap<String, String>, Error> {
    unpack_base(inputs.base, root)?;

    // Reduce the tree to the directories and files that a guest needs.
    let tree = Tree(root);
    for path in REMOVED {
        tree.remove(path)?;
    }
    for path in EMPTIED {
        tree.clear_dir(path)?;
    }
    for (path, mode) in DIRECTORIES {
        tree.create_dir(path, mode)?;
    }

    // Add settings, programs, certificates and additional files.
    configure(&tree)?;
    install_programs(inputs, &tree, work)?;
    commands::install(&tree)?;
    if let Some(bundle) = inputs.ca {
        tree.write_file(CA_BUNDLE, 0o644, bundle)?;
    }
    for file in inputs.extra {
        tree.write_file(file.relative(), file.mode, &file.contents)?;
    }

    // Check the result.
    let mut bytecode = BytecodeCheck::default();
    tree.fix_permissions(&mut |path| bytecode.visit(root, path))?;
    bytecode.finish()?;

    installed_packages(root)
}

/// Skips the devices: the guest mounts its own, and only root could create them.
fn unpack_base(base: &Path, root: &Path) -> Result<(), Error> {
    fs::create_dir(root).map_err(Error::io("create", root))?;
    Program::new("unpacking the guest's packages", "tar", TIMEOUT)
        .arg("-xpf")
        .arg(base)
        .args(["--no-same-owner", "--exclude=./dev/*", "-C"])
        .arg(root)
        .run(&mut |_| {})
}

/// Writes the guest's names, users and empty settings.
fn configure(tree: &Tree<'_>) -> Result<(), Error> {
    tree.write_file("etc/hostname", 0o644, b"fumehood\n")?;
    tree.write_file("etc/hosts", 0o644, HOSTS.as_bytes())?;
    tree.write_file("etc/resolv.conf", 0o644, b"")?;
    tree.write_file("etc/machine-id", 0o444, b"")?;
    tree.append("etc/passwd", USER)?;
    tree.append("etc/group", GROUP)
}

/// Installs uv and bun.
fn install_programs(inputs: &TreeInputs<'_>, tree: &Tree<'_>, work: &Path) -> Result<(), Error> {
    let (uv_dir, bun_dir) = (work.join("uv"), work.join("bun"));
    for directory in [&uv_dir, &bun_dir] {
        fs::create_dir(directory).map_err(Error::io("create", directory))?;
    }

    for (name, file) in uv::unpack(inputs.uv, &uv_dir)? {
        tree.move_file(&format!("usr/local/bin/{name}"), 0o755, &file)?;
    }

    tree.move_file(
        "usr/local/bin/bun",
        0o755,
        &bun::unpack(inputs.bun, &bun_dir)?,
    )
}

/// Reads the installed packages from dpkg's status file.
fn installed_packages(root: &Path) -> Result<BTreeMap<String, String>, Error> {
    let path = root.join("var/lib/dpkg/status");
    let status = fs::read_to_string(&path).map_err(Error::io("read", &path))?;
    let versions = apt::parse_paragraphs(&status)
        .into_iter()
        .filter_map(|mut paragraph| {
            let installed = paragraph.get("status")?.ends_with(" installed");
            let pair = (paragraph.remove("package")?, paragraph.remove("version")?);
            installed.then_some(pair)
        });

    Ok(versions.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_installed_packages_from_dpkg_status() {
        let root = tempfile::tempdir().unwrap();
        let status = "Package: bash\nStatus: install ok installed\nVersion: 5.2-1\nDescription: a shell\n \
            Version: no\n\nPackage: gone\nStatus: deinstall ok config-files\nVersion: 1\n";
        fs::create_dir_all(root.path().join("var/lib/dpkg")).unwrap();
        fs::write(root.path().join("var/lib/dpkg/status"), status).unwrap();
        let found = installed_packages(root.path()).unwrap();
        assert_eq!(
            found,
            BTreeMap::from([("bash".to_owned(), "5.2-1".to_owned())])
        );
    }
}
