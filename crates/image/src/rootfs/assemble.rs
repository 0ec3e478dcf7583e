//! Puts a guest's tree together.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use super::bytecode::BytecodeCheck;
use super::tree::Tree;
use crate::Error;
use crate::options::ExtraFile;
use crate::tools::program::Program;
use crate::tools::{apt, bun, uv};

/// Unpacking 220 MB.
const TIMEOUT: Duration = Duration::from_secs(10 * 60);
/// What no guest needs: package lists and settings of apt, which name the host's mirror; documentation.
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
    // A crash reporter's hook, which costs every start of Python 9 ms under TCG.
    "etc/python3.13/sitecustomize.py",
    "usr/lib/python3.13/sitecustomize.py",
];
const EMPTIED: [&str; 5] = ["var/cache", "var/log", "run", "tmp", "dev"];
/// Where the agent and the guest's programs expect to be able to mount or write.
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
/// The user whose programs run in the guest.
const USER: &str = "user:x:1000:1000::/home/user:/bin/bash\n";
const GROUP: &str = "user:x:1000:\n";
/// Where Debian keeps the bundle that curl, git, uv, Python and others read.
const CA_BUNDLE: &str = "etc/ssl/certs/ca-certificates.crt";

/// What a tree is made of.
pub(crate) struct TreeInputs<'a> {
    /// The archive of Debian's packages.
    pub(crate) base: &'a Path,
    /// uv's wheel.
    pub(crate) uv: &'a Path,
    /// bun's package.
    pub(crate) bun: &'a Path,
    /// The certificates to trust, in place of Debian's own.
    pub(crate) ca: Option<&'a [u8]>,
    /// Further files.
    pub(crate) extra: &'a [ExtraFile],
}

/// Makes the tree at `root` and returns the Debian packages in it with their versions. `work` is a place
/// for unpacking, on the same file system.
pub(crate) fn assemble(
    inputs: &TreeInputs<'_>,
    root: &Path,
    work: &Path,
) -> Result<BTreeMap<String, String>, Error> {
    unpack_base(inputs.base, root)?;
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

    configure(&tree)?;
    install_programs(inputs, &tree, work)?;
    if let Some(bundle) = inputs.ca {
        tree.write_file(CA_BUNDLE, 0o644, bundle)?;
    }

    for file in inputs.extra {
        tree.write_file(file.relative(), file.mode, &file.contents)?;
    }

    let mut bytecode = BytecodeCheck::default();
    tree.fix_permissions(&mut |path| bytecode.visit(root, path))?;
    bytecode.finish()?;

    installed_packages(root)
}

/// The devices stay out: the guest mounts its own, and only root could make them.
fn unpack_base(base: &Path, root: &Path) -> Result<(), Error> {
    fs::create_dir(root).map_err(Error::io("make", root))?;
    Program::new("unpacking the guest's packages", "tar", TIMEOUT)
        .arg("-xpf")
        .arg(base)
        .args(["--no-same-owner", "--exclude=./dev/*", "-C"])
        .arg(root)
        .run(&mut |_| {})
}

fn configure(tree: &Tree<'_>) -> Result<(), Error> {
    tree.write_file("etc/hostname", 0o644, b"fumehood\n")?;
    tree.write_file("etc/hosts", 0o644, HOSTS.as_bytes())?;
    tree.write_file("etc/resolv.conf", 0o644, b"")?;
    tree.write_file("etc/machine-id", 0o444, b"")?;
    tree.append("etc/passwd", USER)?;
    tree.append("etc/group", GROUP)
}

fn install_programs(inputs: &TreeInputs<'_>, tree: &Tree<'_>, work: &Path) -> Result<(), Error> {
    let (uv_place, bun_place) = (work.join("uv"), work.join("bun"));
    for place in [&uv_place, &bun_place] {
        fs::create_dir(place).map_err(Error::io("make", place))?;
    }

    for (name, file) in uv::unpack(inputs.uv, &uv_place)? {
        tree.move_file(&format!("usr/local/bin/{name}"), 0o755, &file)?;
    }

    tree.move_file(
        "usr/local/bin/bun",
        0o755,
        &bun::unpack(inputs.bun, &bun_place)?,
    )?;

    tree.symlink("usr/local/bin/bunx", "bun")
}

/// Reads dpkg's own record.
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
    fn packages_come_from_dpkgs_record() {
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
