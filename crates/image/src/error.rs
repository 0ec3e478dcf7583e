//! What can go wrong, each with what to do about it.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

const MEGABYTE: u64 = 1_000_000;

/// An error of the image store or of a build. Its message says what failed, why, and how to mend it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No image of that name was built in this store.
    #[error("there is no image `{name}` in {store}: run `fumehood image build`")]
    Missing {
        /// The image asked for.
        name: String,
        /// The store that was searched.
        store: PathBuf,
    },
    /// A part of an image is not what its manifest says.
    #[error("the {part} of image `{name}` is damaged ({why}; {path}): run `fumehood image build`")]
    Damaged {
        /// The image's name.
        name: String,
        /// The part: `kernel`, `initrd`, `rootfs` or `manifest`.
        part: String,
        /// Where the part lies.
        path: PathBuf,
        /// What was found.
        why: String,
    },
    /// The store cannot be placed: no environment variable and no home directory says where.
    #[error("no place for the image store: set FUMEHOOD_HOME (or HOME) to an absolute path")]
    NoHome,
    /// A name that cannot name an image.
    #[error(
        "`{0}` is not an image name: use 1 to 64 of a-z, 0-9, `.`, `_`, `-`, beginning with a letter or digit, not ending in `-` and 16 hexadecimal digits"
    )]
    BadName(String),
    /// A file operation failed.
    #[error("cannot {action} {path}: {source}")]
    Io {
        /// What was attempted, as a verb.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The operating system's reason.
        source: io::Error,
    },
    /// The disk has no room for the build.
    #[error("the disk of {path} has {} MB free, and {} MB are needed: free some, or set FUMEHOOD_HOME to a place with room", .have / MEGABYTE, .need / MEGABYTE)]
    InsufficientSpace {
        /// The store.
        path: PathBuf,
        /// Bytes free.
        have: u64,
        /// Bytes needed at the same time.
        need: u64,
    },
    /// The disk, or what a quota leaves of it, became full while something was written; nothing of it stays.
    #[error("the disk of {path} is full ({source}), and {} MB were needed: free some, or set FUMEHOOD_HOME to a place with room", .need / MEGABYTE)]
    DiskFull {
        /// The store.
        path: PathBuf,
        /// Bytes needed in all.
        need: u64,
        /// The operating system's reason.
        source: io::Error,
    },
    /// A part of a warm template is not what its manifest says.
    #[error(
        "the {part} of template {key} is damaged ({why}; {path}): run `fumehood template prune`, which removes it; it is made again when it is wanted"
    )]
    DamagedTemplate {
        /// The template's key.
        key: String,
        /// The part: `ram`, `state` or `manifest.json`.
        part: String,
        /// Where the part lies.
        path: PathBuf,
        /// What was found.
        why: String,
    },
    /// A part of a layer of packages is not what its manifest says.
    #[error(
        "the {part} of the layer {digest} is damaged ({why}; {path}): run `fumehood layer prune`, which removes it; it is made again when it is wanted"
    )]
    DamagedLayer {
        /// The layer's digest.
        digest: String,
        /// The part: `layer` or `manifest.json`.
        part: String,
        /// Where the part lies.
        path: PathBuf,
        /// What was found.
        why: String,
    },
    /// Another process does not give a lock back that is held for milliseconds.
    #[error(
        "another process has kept {path} locked for {} seconds: `fuser {path}` names it; end it and try again", .limit.as_secs(), path = .path.display()
    )]
    Locked {
        /// The file that is locked.
        path: PathBuf,
        /// How long was waited.
        limit: Duration,
    },
    /// A program that the build needs is not installed.
    #[error("`{program}` is not installed ({purpose}): run `apt-get install {package}`")]
    NoProgram {
        /// The program.
        program: String,
        /// What the build needs it for.
        purpose: &'static str,
        /// The Debian package that holds it.
        package: &'static str,
    },
    /// A program of the build failed.
    #[error("{what} failed: `{program}` ended with {status}{}", indented(.tail))]
    Program {
        /// What it was to do.
        what: &'static str,
        /// The program.
        program: String,
        /// Its exit status, in words.
        status: String,
        /// The last lines it wrote.
        tail: String,
    },
    /// A program of the build took too long and was ended.
    #[error("{what} took longer than {} minutes, so `{program}` was ended: try again{}", .limit.as_secs() / 60, indented(.tail))]
    Deadline {
        /// What it was to do.
        what: &'static str,
        /// The program.
        program: String,
        /// The time it was given.
        limit: Duration,
        /// The last lines it wrote.
        tail: String,
    },
    /// Kconfig did not take lines of the kernel's fragment.
    #[error("the kernel's configuration does not hold what crates/image/kernel/fragment.config asks for: {}; correct the fragment for this kernel version", .0.join("; "))]
    FragmentNotTaken(Vec<String>),
    /// No kernel source is to be had from the host's package sources.
    #[error("no kernel source: {0}; add Debian's package source, or build with `--kernel debian`")]
    NoKernelSource(String),
    /// A download is not the artifact that this version of fumehood was made with.
    #[error(
        "{what} is not the file this version of fumehood expects: sha256 {found} instead of {expected}; check the package source, or update fumehood"
    )]
    Artifact {
        /// What was downloaded.
        what: String,
        /// The pinned hash.
        expected: String,
        /// The hash of what came.
        found: String,
    },
    /// The agent is not a program that can be the guest's first process.
    #[error("{path} cannot be the guest's agent: {why}; build it with `cargo xtask setup`")]
    Agent {
        /// The file given as the agent.
        path: PathBuf,
        /// What is wrong with it.
        why: &'static str,
    },
    /// An option that cannot be used.
    #[error("{what} is not usable: {why}")]
    Option {
        /// The option and its value.
        what: String,
        /// Why not.
        why: &'static str,
    },
    /// What was built is not what it should be.
    #[error("the built {what} is not right: {why}; please report this")]
    Inconsistent {
        /// What was built.
        what: &'static str,
        /// What is wrong.
        why: String,
    },
}

impl Error {
    /// For `map_err`: names the action and the path of a failed file operation.
    pub(crate) fn io(
        action: &'static str,
        path: impl AsRef<Path>,
    ) -> impl FnOnce(io::Error) -> Error {
        let path = path.as_ref().to_path_buf();
        move |source| Error::Io {
            action,
            path,
            source,
        }
    }

    /// Says of a failed file operation that the disk is full, if that is the reason.
    pub(crate) fn or_disk_full(self, store: &Path, need: u64) -> Error {
        match self {
            Error::Io { source, .. }
                if matches!(
                    source.kind(),
                    io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
                ) =>
            {
                Error::DiskFull {
                    path: store.to_path_buf(),
                    need,
                    source,
                }
            }
            other => other,
        }
    }
}

/// The last lines of a program's output, set apart from the message before them.
fn indented(tail: &str) -> String {
    tail.lines().map(|line| format!("\n  | {line}")).collect()
}
