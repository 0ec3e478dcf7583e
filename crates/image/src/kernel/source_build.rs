//! Builds the kernel from Debian's source with our configuration.
//!
//! The steps are: fetch and unpack the source, apply [`PATCH`], generate the configuration from `tinyconfig`
//! and [`FRAGMENT`], compile `vmlinux`, strip it and record its hashes.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::cached;
use super::fragment::{self, FRAGMENT};
use super::source::{PACKAGE, Source};
use crate::Error;
use crate::hash::{self, Fields};
use crate::progress::StepProgress;
use crate::store::{KernelChoice, KernelRecord};
use crate::tools::program::{Program, missing_programs};

/// Avoids kernel code that is slow under software emulation. The patch lets the command line name the
/// frequency of the local APIC's timer, which a virtual machine knows (measuring it takes 0.3 of 0.53 seconds
/// of boot). It keeps a hash of the random number generator as a loop, which saves the translation of 1,550
/// instructions. It turns off a timer that would be started at every wake-up.
pub(crate) const PATCH: &str = include_str!("../../kernel/emulation.patch");

/// The deadline of each program. The build takes three minutes on two idle processors.
const TIMEOUT: Duration = Duration::from_secs(60 * 60);
/// Disk space for source and objects (measured: 1.8 GB), with a margin.
pub(super) const REQUIRED_BYTES: u64 = 2_200_000_000;
/// Lines that make prints for this configuration (measured: 1,439). They measure the progress.
const EXPECTED_LINES: u32 = 1440;
/// The version of the build procedure. It is part of the cache key: increase it when the procedure changes
/// other than in the fragment and the patch.
const BUILD_VERSION: &str = "2";
/// Inherited environment variables that would change the result.
const CLEARED_VARIABLES: [&str; 7] = [
    "MAKEFLAGS",
    "MAKELEVEL",
    "ARCH",
    "CROSS_COMPILE",
    "KCFLAGS",
    "KCONFIG_ALLCONFIG",
    "CC",
];
/// The programs that the build runs, with their Debian packages.
const REQUIRED_PROGRAMS: [(&str, &str); 10] = [
    ("make", "make"),
    ("gcc", "gcc"),
    ("ld", "binutils"),
    ("flex", "flex"),
    ("bison", "bison"),
    ("bc", "bc"),
    ("perl", "perl"),
    ("tar", "tar"),
    ("xz", "xz-utils"),
    ("patch", "patch"),
];
/// The purpose of these programs in error messages.
const PURPOSE: &str = "required to compile the guest's kernel";
/// The header that the kernel's objtool is compiled with.
const LIBELF_HEADER: &str = "/usr/include/libelf.h";

/// Builds the kernel. The returned directory is ready for the cache.
pub(super) fn build_from_source(
    source: &Source,
    work: &Path,
    jobs: Option<usize>,
    progress: &mut StepProgress<'_>,
) -> Result<PathBuf, Error> {
    progress.fraction(0.0, "fetching the source");
    let archive = source.archive(work)?;
    let tree = unpack(&archive, work, progress)?;
    let config = configure(&tree)?;
    compile(&tree, jobs, progress)?;

    let finished = work.join("finished");
    collect(&tree, source, &config, &finished)?;
    Ok(finished)
}

/// Returns a hash of everything that the kernel is built from. It is also part of the image's key.
pub(super) fn key(source: &Source) -> String {
    Fields::default()
        .add("way", BUILD_VERSION)
        .add("source", &source.version)
        .add("fragment", FRAGMENT)
        .add("patch", PATCH)
        .finish()
}

/// Returns errors for the programs and headers that the build needs and that are missing.
pub(super) fn missing_prerequisites() -> Vec<Error> {
    let mut missing = missing_programs(&REQUIRED_PROGRAMS, PURPOSE);
    if !Path::new(LIBELF_HEADER).exists() {
        missing.push(Error::MissingProgram {
            program: LIBELF_HEADER.to_owned(),
            purpose: PURPOSE,
            package: "libelf-dev",
        });
    }

    missing
}

/// Unpacks the source and applies [`PATCH`].
fn unpack(archive: &Path, work: &Path, progress: &mut StepProgress<'_>) -> Result<PathBuf, Error> {
    progress.fraction(0.0, "unpacking the source");
    let tree = work.join("source");
    fs::create_dir(&tree).map_err(Error::io("create", &tree))?;
    Program::new("unpacking the kernel's source", "tar", TIMEOUT)
        .arg("-xJf")
        .arg(archive)
        .args(["--no-same-owner", "--strip-components=1", "-C"])
        .arg(&tree)
        .run(&mut |_| {})?;

    let patch = work.join("fumehood.patch");
    fs::write(&patch, PATCH).map_err(Error::io("write", &patch))?;
    Program::new("patching the kernel's source", "patch", TIMEOUT)
        .args(["-p1", "--batch", "--forward", "-i"])
        .arg(&patch)
        .current_dir(&tree)
        .run(&mut |_| {})?;

    Ok(tree)
}

/// Generates the configuration and returns it after checking that it contains every line of the fragment.
fn configure(tree: &Path) -> Result<String, Error> {
    let path = tree.join("fumehood.config");
    fs::write(&path, FRAGMENT).map_err(Error::io("write", &path))?;

    // The smallest configuration, then our lines over it, then defaults for what both leave open.
    kbuild(tree).args(["-s", "tinyconfig"]).run(&mut |_| {})?;
    Program::new(
        "merging the kernel's configuration",
        "scripts/kconfig/merge_config.sh",
        TIMEOUT,
    )
    .args(["-m", ".config", "fumehood.config"])
    .current_dir(tree)
    .run(&mut |_| {})?;
    kbuild(tree).args(["-s", "olddefconfig"]).run(&mut |_| {})?;

    let path = tree.join(".config");
    let config = fs::read_to_string(&path).map_err(Error::io("read", &path))?;
    fragment::check_applied(FRAGMENT, &config)?;

    Ok(config)
}

/// Compiles `vmlinux` and reports the progress.
fn compile(tree: &Path, jobs: Option<usize>, progress: &mut StepProgress<'_>) -> Result<(), Error> {
    let processors = || std::thread::available_parallelism().map_or(1, usize::from);
    let mut lines = 0;

    kbuild(tree)
        .arg(format!("-j{}", jobs.unwrap_or_else(processors)))
        .arg("vmlinux")
        .run(&mut |line| {
            // Make indents the lines that name a compiled file.
            if line.starts_with("  ") {
                lines += 1;
                progress.fraction(f64::from(lines) / f64::from(EXPECTED_LINES), line.trim());
            }
        })
}

/// Returns a `make` command with fixed names, dates and paths, so that two builds give the same bytes.
fn kbuild(tree: &Path) -> Program {
    Program::new("building the guest's kernel", "make", TIMEOUT)
        .current_dir(tree)
        .unset_env(&CLEARED_VARIABLES)
        .env("KBUILD_BUILD_TIMESTAMP", "Thu Jan  1 00:00:00 UTC 1970")
        .env("KBUILD_BUILD_USER", "fumehood")
        .env("KBUILD_BUILD_HOST", "fumehood")
}

/// Writes the stripped kernel, its symbols and its configuration into the finished directory.
fn collect(tree: &Path, source: &Source, config: &str, finished: &Path) -> Result<(), Error> {
    fs::create_dir(finished).map_err(Error::io("create", finished))?;
    Program::new("stripping the kernel", "strip", TIMEOUT)
        .arg("-o")
        .args([&finished.join(cached::IMAGE), &tree.join("vmlinux")])
        .run(&mut |_| {})?;

    // System.map stays in the cache for profiling guests. It is not part of an image.
    let (symbols, path) = (tree.join("System.map"), finished.join("System.map"));
    fs::copy(&symbols, &path).map_err(Error::io("copy", &symbols))?;
    let path = finished.join("config");
    fs::write(&path, config).map_err(Error::io("write", &path))?;

    let release = kbuild(tree).args(["-s", "kernelrelease"]).output()?;
    let record = KernelRecord {
        kind: KernelChoice::Own,
        package: PACKAGE.to_owned(),
        version: source.version.clone(),
        release: release.trim().to_owned(),
        config_sha256: hash::of_bytes(config.as_bytes()),
    };

    cached::seal(finished, record, &[])
}
