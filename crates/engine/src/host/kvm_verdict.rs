//! The result of a probe of KVM, kept until this machine boots again.
//!
//! A probe measures time, which other programs disturb. Commands must not choose differently: templates of one
//! accelerator are of no use to the other. So one probe decides for all commands of a boot.

use std::fs::{self, File, Permissions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use fumehood_image::boot_id;
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

/// The file with the verdict, in the cache of the store or in the directory of the user's session.
const FILE: &str = "kvm-probe.json";

/// A larger file is not a verdict, in bytes.
const MAX_FILE_BYTES: u64 = 4096;

/// The result of a probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum KvmVerdict {
    /// The guest ran on the CPU; the processor time of its fastest run, in µs.
    Hardware {
        /// The time.
        micros: u64,
    },
    /// The hypervisor below emulates the guest.
    Emulated {
        /// The time.
        micros: u64,
    },
    /// The guest did not end.
    Hangs,
}

/// Everything that a verdict depends on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct VerdictKey {
    /// The number of this boot, which the kernel draws.
    boot: String,
    /// `/dev/kvm`.
    device: FileIdentity,
    /// The program that uses it.
    qemu: Option<FileIdentity>,
}

/// A file, and what changes when it is replaced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct FileIdentity {
    path: PathBuf,
    device: u64,
    inode: u64,
    /// The number of the device that it stands for; 0 = it is none.
    node: u64,
    bytes: u64,
    modified_ns: i128,
}

#[derive(Debug, Serialize, Deserialize)]
struct Record {
    key: VerdictKey,
    verdict: KvmVerdict,
}

impl VerdictKey {
    /// Describes this boot, this device and this QEMU. Returns nothing if one of them cannot be examined: there is nothing
    /// to keep a verdict by.
    pub(super) fn new(device: &Path, qemu: Option<&Path>) -> Option<Self> {
        let boot = boot_id()?;
        let qemu = match qemu {
            Some(program) => Some(FileIdentity::of(program)?),
            None => None,
        };

        Some(Self {
            boot,
            device: FileIdentity {
                // Every access to a device changes its time.
                modified_ns: 0,
                ..FileIdentity::of(device)?
            },
            qemu,
        })
    }
}

impl FileIdentity {
    fn of(path: &Path) -> Option<Self> {
        let metadata = fs::metadata(path).ok()?;

        Some(Self {
            path: path.to_path_buf(),
            device: metadata.dev(),
            inode: metadata.ino(),
            node: metadata.rdev(),
            bytes: metadata.len(),
            modified_ns: i128::from(metadata.mtime()) * 1_000_000_000
                + i128::from(metadata.mtime_nsec()),
        })
    }
}

/// Returns the directories in which a verdict may be kept: the store's cache, or that of the user's session if the store
/// does not exist or belongs to another user. A store that no build has filled gets a cache.
pub(super) fn prepare_directories(store: Option<&Path>) -> Vec<PathBuf> {
    let session = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    let store = store.map(|root| {
        let cache = root.join("cache");
        // It exists already, or the next directory is used.
        let _ = fs::create_dir(&cache);
        cache
    });

    store
        .into_iter()
        .chain(session.filter(|path| path.is_absolute()))
        .collect()
}

/// Returns the kept verdict, or makes one and keeps it. While one command probes, others wait for its verdict. An error of
/// the probe is not kept.
pub(super) fn decide(
    directories: &[PathBuf],
    key: &VerdictKey,
    probe: impl FnOnce() -> Result<KvmVerdict, String>,
) -> Result<KvmVerdict, String> {
    // Another user may have probed, whose files this one can only read.
    let paths = || directories.iter().map(|directory| directory.join(FILE));
    let kept = paths().find_map(|path| read(&mut open(&path, false)?, key));
    if let Some(verdict) = kept {
        return Ok(verdict);
    }

    let Some(mut file) = paths().find_map(|path| open(&path, true)) else {
        return probe();
    };
    // If this fails, two commands may probe at once.
    let _ = flock(&file, FlockOperation::LockExclusive);
    if let Some(verdict) = read(&mut file, key) {
        return Ok(verdict);
    }

    let verdict = probe()?;
    let record = Record {
        key: key.clone(),
        verdict,
    };
    if let Err(error) = write(&mut file, &record) {
        tracing::debug!(%error, "cannot keep the verdict on KVM");
    }
    Ok(verdict)
}

/// Opens a file that only this user and root can have written.
fn open(path: &Path, to_write: bool) -> Option<File> {
    let no_follow = rustix::fs::OFlags::NOFOLLOW.bits().cast_signed();
    let mut options = File::options();
    options.read(true).custom_flags(no_follow).mode(0o644);
    options.write(to_write).create(to_write).truncate(false);

    let file = options.open(path).ok()?;
    let metadata = file.metadata().ok()?;
    let ours = rustix::process::geteuid().as_raw();
    let is_trusted = metadata.is_file()
        && (metadata.uid() == ours || metadata.uid() == 0)
        && metadata.mode() & 0o022 == 0;

    is_trusted.then_some(file)
}

/// Returns the verdict in a file if it was made under these conditions.
fn read(file: &mut File, key: &VerdictKey) -> Option<KvmVerdict> {
    let mut text = Vec::new();
    file.seek(SeekFrom::Start(0)).ok()?;
    file.take(MAX_FILE_BYTES).read_to_end(&mut text).ok()?;

    let record: Record = serde_json::from_slice(&text).ok()?;
    (record.key == *key).then_some(record.verdict)
}

/// Writes under the lock. A file that is torn by a crash is not valid JSON, and is written again.
fn write(file: &mut File, record: &Record) -> std::io::Result<()> {
    let text = serde_json::to_vec(record)?;
    file.set_len(0)?;
    file.seek(SeekFrom::Start(0))?;
    file.write_all(&text)?;

    // Other users of the store may read it, with any umask.
    file.set_permissions(Permissions::from_mode(0o644))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAST: KvmVerdict = KvmVerdict::Hardware { micros: 300 };
    const SLOW: KvmVerdict = KvmVerdict::Emulated { micros: 63_000 };

    fn key(boot: &str) -> VerdictKey {
        let key = VerdictKey::new(Path::new("/dev/null"), Some(Path::new("/bin/sh"))).unwrap();
        VerdictKey {
            boot: boot.to_owned(),
            ..key
        }
    }

    fn decide_in(directory: &Path, key: &VerdictKey, probed: KvmVerdict) -> KvmVerdict {
        decide(&[directory.to_path_buf()], key, || Ok(probed)).unwrap()
    }

    #[test]
    fn the_first_probe_decides_for_this_boot() {
        let place = tempfile::tempdir().unwrap();
        let place = place.path();

        assert_eq!(decide_in(place, &key("a"), FAST), FAST);
        assert_eq!(decide_in(place, &key("a"), SLOW), FAST);
        assert_eq!(decide_in(place, &key("a"), KvmVerdict::Hangs), FAST);
    }

    #[test]
    fn another_boot_device_or_qemu_is_probed() {
        let place = tempfile::tempdir().unwrap();
        let place = place.path();
        let null = Path::new("/dev/null");
        let qemu = place.join("qemu");
        fs::write(&qemu, "one").unwrap();

        let key = |boot: &str| VerdictKey {
            boot: boot.to_owned(),
            ..VerdictKey::new(null, Some(&qemu)).unwrap()
        };
        assert_eq!(decide_in(place, &key("a"), FAST), FAST);
        assert_eq!(decide_in(place, &key("b"), SLOW), SLOW);
        assert_eq!(decide_in(place, &key("b"), FAST), SLOW);

        let zero = VerdictKey::new(Path::new("/dev/zero"), Some(&qemu)).unwrap();
        let zero = VerdictKey {
            boot: "b".to_owned(),
            ..zero
        };
        assert_eq!(decide_in(place, &zero, FAST), FAST);

        fs::write(&qemu, "another").unwrap();
        assert_eq!(decide_in(place, &key("b"), SLOW), SLOW);
        let none = VerdictKey {
            qemu: None,
            ..key("b")
        };
        assert_eq!(decide_in(place, &none, FAST), FAST);
    }

    #[test]
    fn commands_that_start_together_decide_alike() {
        let place = tempfile::tempdir().unwrap();
        let place = place.path();
        let verdicts = std::thread::scope(|scope| {
            let start = |micros| {
                let probed = KvmVerdict::Emulated { micros };
                scope.spawn(move || decide_in(place, &key("a"), probed))
            };
            let all: Vec<_> = (0..8).map(start).collect();
            let all = all.into_iter().map(|thread| thread.join().unwrap());
            all.collect::<Vec<_>>()
        });

        assert!(verdicts.iter().all(|verdict| *verdict == verdicts[0]));
    }

    #[test]
    fn nothing_else_probes_during_a_probe() {
        let place = tempfile::tempdir().unwrap();
        let place = place.path();
        let lock = || {
            let file = open(&place.join(FILE), true).unwrap();
            flock(&file, FlockOperation::NonBlockingLockExclusive)
        };

        let probe = || {
            assert_eq!(lock(), Err(rustix::io::Errno::WOULDBLOCK));
            Ok(FAST)
        };
        assert_eq!(decide(&[place.to_path_buf()], &key("a"), probe), Ok(FAST));
        assert_eq!(lock(), Ok(()));
    }

    #[test]
    fn an_error_is_not_kept() {
        let place = tempfile::tempdir().unwrap();
        let places = [place.path().to_path_buf()];
        let busy = || Err("KVM cannot create a VM: busy".to_owned());

        decide(&places, &key("a"), busy).unwrap_err();
        assert_eq!(decide_in(place.path(), &key("a"), FAST), FAST);
    }

    #[test]
    fn what_another_user_could_have_written_is_not_believed() {
        let place = tempfile::tempdir().unwrap();
        let file = place.path().join(FILE);
        assert_eq!(decide_in(place.path(), &key("a"), FAST), FAST);

        fs::set_permissions(&file, Permissions::from_mode(0o666)).unwrap();
        assert_eq!(decide_in(place.path(), &key("a"), SLOW), SLOW);

        // Nor is a link, or a file without a verdict.
        fs::rename(&file, place.path().join("other")).unwrap();
        std::os::unix::fs::symlink("other", &file).unwrap();
        assert_eq!(decide_in(place.path(), &key("a"), SLOW), SLOW);
        fs::remove_file(&file).unwrap();
        fs::write(&file, "{").unwrap();
        assert_eq!(decide_in(place.path(), &key("a"), SLOW), SLOW);
        assert_eq!(decide_in(place.path(), &key("a"), FAST), SLOW);
    }

    #[test]
    fn a_store_without_a_cache_gets_one() {
        let store = tempfile::tempdir().unwrap();
        let place = &prepare_directories(Some(store.path()))[0];
        assert_eq!(decide_in(place, &key("a"), FAST), FAST);
        assert_eq!(decide_in(place, &key("a"), SLOW), FAST);

        let missing = store.path().join("missing");
        let place = &prepare_directories(Some(&missing))[0];
        assert_eq!(decide_in(place, &key("a"), FAST), FAST);
        assert!(!missing.exists());
    }

    #[test]
    fn without_a_place_each_command_probes() {
        let nowhere = PathBuf::from("/nonexistent");
        let nowhere = std::slice::from_ref(&nowhere);
        assert_eq!(decide(nowhere, &key("a"), || Ok(SLOW)), Ok(SLOW));
        assert_eq!(decide(nowhere, &key("a"), || Ok(FAST)), Ok(FAST));
    }
}
