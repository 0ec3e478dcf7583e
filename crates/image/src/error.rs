//! Errors of this crate. Each message says what failed, why, and how to fix it.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

const MEGABYTE: u64 = 1_000_000;

/// An error of the image store or of a build.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The store holds no image with this name.
    #[error("there is no image `{name}` in {store}: run `fumehood image build`")]
    Missing {
        /// The requested image.
        name: String,
        /// The store that was searched.
        store: PathBuf,
    },
    /// A part of an image does not match its manifest.
    #[error(
        "the {part} of image `{name}` is damaged ({reason}; {path}): run `fumehood image build`"
    )]
    Damaged {
        /// The image's name.
        name: String,
        /// The part: `kernel`, `initrd`, `rootfs` or `manifest`.
        part: String,
        /// The part's file.
        path: PathBuf,
        /// How the part differs from the manifest.
        reason: String,
    },
    /// The store has no location: no environment variable and no home directory names one.
    #[error("cannot locate the image store: set FUMEHOOD_HOME (or HOME) to an absolute path")]
    NoHome,
    /// The text is not a valid image name.
    #[error(
        "invalid image name `{0}`: use 1 to 64 characters of a-z, 0-9, `.`, `_`, `-`; start with a letter or digit; do not end with `-` and 16 hexadecimal digits"
    )]
    InvalidName(String),
    /// A file operation failed.
    #[error("cannot {action} {path}: {source}")]
    Io {
        /// The attempted action, as a verb.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The operating system's error.
        source: io::Error,
    },
    /// The disk has too little free space. This is checked before anything is written.
    #[error("the disk of {path} has {} MB free, but {} MB are needed: free some space, or set FUMEHOOD_HOME to a directory on a larger disk", .available / MEGABYTE, .required / MEGABYTE)]
    InsufficientSpace {
        /// The store.
        path: PathBuf,
        /// Free bytes.
        available: u64,
        /// Bytes needed at the same time.
        required: u64,
    },
    /// The disk or a quota filled up during a write. The partly written files were removed.
    #[error("the disk of {path} is full ({source}); {} MB were needed: free some space, or set FUMEHOOD_HOME to a directory on a larger disk", .required / MEGABYTE)]
    DiskFull {
        /// The store.
        path: PathBuf,
        /// Bytes needed in total.
        required: u64,
        /// The operating system's error.
        source: io::Error,
    },
    /// A part of a warm template does not match its manifest.
    #[error(
        "the {part} of template {key} is damaged ({reason}; {path}): run `fumehood template prune` to remove it; it is rebuilt when it is next needed"
    )]
    DamagedTemplate {
        /// The template's key.
        key: String,
        /// The part: `ram`, `state` or `manifest.json`.
        part: String,
        /// The part's file.
        path: PathBuf,
        /// How the part differs from the manifest.
        reason: String,
    },
    /// A part of a hot image was changed or is missing.
    #[error(
        "the {part} of a hot image is damaged ({reason}; {path}): it is removed, and created again when it is next needed"
    )]
    DamagedHotImage {
        /// The part.
        part: String,
        /// The part's file.
        path: PathBuf,
        /// The reason.
        reason: String,
    },
    /// A part of a package layer does not match its manifest.
    #[error(
        "the {part} of layer {digest} is damaged ({reason}; {path}): run `fumehood layer prune` to remove it; it is rebuilt when it is next needed"
    )]
    DamagedLayer {
        /// The layer's digest.
        digest: String,
        /// The part: `layer` or `manifest.json`.
        part: String,
        /// The part's file.
        path: PathBuf,
        /// How the part differs from the manifest.
        reason: String,
    },
    /// A part of the saved state of a sandbox does not match its manifest or its checksums.
    #[error(
        "the {part} of saved state {id} is damaged ({reason}; {path}): the sandbox cannot be resumed from it; restore the file from a backup, or delete the state"
    )]
    DamagedState {
        /// The state's id.
        id: String,
        /// The part: `manifest.json`, `index`, `memory`, `devices`, or a file that the state needs.
        part: String,
        /// The part's file.
        path: PathBuf,
        /// How the part differs from the one that was written.
        reason: String,
    },
    /// A newer version of fumehood has written the state.
    #[error(
        "saved state {id} has format {found}, and this version of fumehood reads up to {supported} ({path}): resume it with the version that wrote it, or a newer one"
    )]
    NewerState {
        /// The state's id.
        id: String,
        /// The format of the state.
        found: u32,
        /// The newest format that this version reads.
        supported: u32,
        /// The manifest.
        path: PathBuf,
    },
    /// The store has no saved state with this id.
    #[error("there is no saved state {id} in {store}: it was resumed or deleted, or never existed")]
    MissingState {
        /// The requested state.
        id: String,
        /// The directory of saved states.
        store: PathBuf,
    },
    /// Another thread or process resumes or deletes the state at this moment.
    #[error("saved state {id} is being resumed or deleted by another request or process")]
    StateInUse {
        /// The state's id.
        id: String,
    },
    /// Another process does not release a lock that is normally held for milliseconds.
    #[error(
        "another process has held the lock {path} for {} seconds: find it with `fuser {path}`, end it and try again", .timeout.as_secs(), path = .path.display()
    )]
    Locked {
        /// The lock file.
        path: PathBuf,
        /// How long the caller waited for the lock.
        timeout: Duration,
    },
    /// A program that the build needs is not installed.
    #[error("`{program}` is not installed ({purpose}): run `apt-get install {package}`")]
    MissingProgram {
        /// The program.
        program: String,
        /// Why the build needs it.
        purpose: &'static str,
        /// The Debian package that contains it.
        package: &'static str,
    },
    /// The user has no ids for the users of the guest's packages.
    #[error(
        "`{user}` has no subordinate ids in {file} (required to install packages as an ordinary user): run `usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {user}` as root"
    )]
    NoSubordinateIds {
        /// The user.
        user: String,
        /// `/etc/subuid` or `/etc/subgid`.
        file: &'static str,
    },
    /// Several things that the build needs are missing.
    #[error("this machine cannot build an image yet:{}", lines(.0))]
    MissingPrerequisites(Vec<Error>),
    /// A program of the build failed.
    #[error("{task} failed: `{program}` ended with {status}{}", indent(.tail))]
    Program {
        /// The task of the program.
        task: &'static str,
        /// The program.
        program: String,
        /// Its exit status, in words.
        status: String,
        /// The last lines of its output.
        tail: String,
    },
    /// A program of the build ran past its deadline and was terminated.
    #[error("{task} took longer than {} minutes, so `{program}` was terminated: try again{}", .timeout.as_secs() / 60, indent(.tail))]
    Deadline {
        /// The task of the program.
        task: &'static str,
        /// The program.
        program: String,
        /// The time that the program was given.
        timeout: Duration,
        /// The last lines of its output.
        tail: String,
    },
    /// Kconfig did not apply some lines of the kernel's configuration fragment.
    #[error("the kernel's configuration does not match crates/image/kernel/fragment.config: {}; correct the fragment for this kernel version", .0.join("; "))]
    FragmentNotApplied(Vec<String>),
    /// The host's package sources offer no kernel source.
    #[error(
        "no kernel source found: {0}; add Debian's package source, or build with `--kernel debian`"
    )]
    NoKernelSource(String),
    /// A download does not match the hash that this version of fumehood pins.
    #[error(
        "{artifact} is not the file that this version of fumehood expects: sha256 {found} instead of {expected}; check the package source, or update fumehood"
    )]
    Artifact {
        /// The downloaded artifact and its version.
        artifact: String,
        /// The pinned hash.
        expected: String,
        /// The hash of the download.
        found: String,
    },
    /// The agent cannot run as the guest's first process.
    #[error("{path} cannot be the guest's agent: {reason}; build it with `cargo xtask setup`")]
    Agent {
        /// The file given as the agent.
        path: PathBuf,
        /// The property that rules it out.
        reason: &'static str,
    },
    /// An option has an invalid value.
    #[error("invalid {option}: {reason}")]
    Option {
        /// The option and its value.
        option: String,
        /// Why the value is invalid.
        reason: &'static str,
    },
    /// Something that was built failed a consistency check.
    #[error("the built {item} is inconsistent: {reason}; please report this")]
    Inconsistent {
        /// The built object.
        item: &'static str,
        /// The failed check.
        reason: String,
    },
}

impl Error {
    /// Returns whether a template, a hot image, a layer or a saved state is damaged. No other error is a reason to remove it:
    /// a file may be unreadable for a moment, such as when too many files are open.
    pub(crate) fn is_damage(&self) -> bool {
        matches!(
            self,
            Self::DamagedTemplate { .. }
                | Self::DamagedHotImage { .. }
                | Self::DamagedLayer { .. }
                | Self::DamagedState { .. }
        )
    }

    /// Returns a function for `map_err` that adds the action and the path to the error of a file operation.
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

    /// Converts the error of a file operation into [`Error::DiskFull`] if a full disk or quota caused it.
    pub(crate) fn or_disk_full(self, store: &Path, required: u64) -> Error {
        match self {
            Error::Io { source, .. }
                if matches!(
                    source.kind(),
                    io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
                ) =>
            {
                Error::DiskFull {
                    path: store.to_path_buf(),
                    required,
                    source,
                }
            }
            other => other,
        }
    }
}

/// Returns whether the cause is a shortage of this process or this host, and not the file.
pub(crate) fn is_shortage(error: &io::Error) -> bool {
    let errno = error
        .raw_os_error()
        .map(rustix::io::Errno::from_raw_os_error);
    matches!(
        errno,
        Some(rustix::io::Errno::MFILE | rustix::io::Errno::NFILE | rustix::io::Errno::NOMEM)
    )
}

/// Returns one line for each error.
fn lines(errors: &[Error]) -> String {
    errors.iter().map(|error| format!("\n  {error}")).collect()
}

/// Formats the last lines of a program's output below the message.
fn indent(tail: &str) -> String {
    tail.lines().map(|line| format!("\n  | {line}")).collect()
}
