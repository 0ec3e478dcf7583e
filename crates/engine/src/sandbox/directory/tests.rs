use std::fs::{self, Permissions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use rustix::fs::{CWD, FileType, Mode, mknodat};
use tar::{Builder, EntryType, Header};
use tokio::sync::mpsc;

use super::pack::{RootEntry, pack};
use super::stream::{ChunkWriter, MAX_TREE_BYTES};
use super::unpack::unpack;
use crate::run::SkippedFiles;

pub(super) fn arriving(bytes: Vec<u8>) -> mpsc::Receiver<Bytes> {
    let (to, from) = mpsc::channel(1);
    std::thread::spawn(move || {
        for piece in bytes.chunks(777) {
            if to.blocking_send(Bytes::copy_from_slice(piece)).is_err() {
                return;
            }
        }
    });

    from
}

/// Packs a directory; returns the stream and what was skipped.
fn packed(from: &Path) -> (Vec<u8>, SkippedFiles) {
    let (sender, mut chunks) = mpsc::channel(4);
    let source = from.to_path_buf();
    let packing =
        std::thread::spawn(move || pack(&source, RootEntry::Include, ChunkWriter::new(sender)));

    let mut bytes = Vec::new();
    while let Some(piece) = chunks.blocking_recv() {
        bytes.extend(piece);
    }
    (bytes, packing.join().unwrap().unwrap())
}

/// Adds an entry to a stream as a hostile tar would: the library's own setters refuse such names.
pub(super) fn entry(builder: &mut Builder<Vec<u8>>, kind: EntryType, path: &str, target: &str) {
    let content: &[u8] = match kind {
        EntryType::Regular => b"x",
        _ => b"",
    };
    sized_entry(builder, kind, path, target, content);
}

pub(super) fn sized_entry(
    builder: &mut Builder<Vec<u8>>,
    kind: EntryType,
    path: &str,
    target: &str,
    content: &[u8],
) {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(0o4755);
    header.set_mtime(1);
    header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
    header.as_old_mut().linkname[..target.len()].copy_from_slice(target.as_bytes());
    header.set_size(content.len() as u64);
    header.set_cksum();
    builder.append(&header, content).unwrap();
}

/// Paths and reasons of what was skipped, in their order.
pub(super) fn reasons(skipped: &SkippedFiles) -> Vec<(&str, &str)> {
    skipped
        .files
        .iter()
        .map(|file| (file.path.as_str(), file.reason.as_str()))
        .collect()
}

#[test]
fn a_hostile_tar_writes_nothing_outside() {
    let outside = tempfile::tempdir().unwrap();
    let to = outside.path().join("to");
    let secret = outside.path().join("secret");
    fs::write(&secret, "secret").unwrap();
    let up = secret.to_str().unwrap();

    let mut builder = Builder::new(Vec::new());
    entry(&mut builder, EntryType::Directory, "./d", "");
    entry(&mut builder, EntryType::Regular, "./d/file", "");
    entry(&mut builder, EntryType::Regular, "../escaped", "");
    entry(
        &mut builder,
        EntryType::Regular,
        "/tmp/fumehood-escaped",
        "",
    );
    entry(&mut builder, EntryType::Symlink, "./up", "..");
    entry(&mut builder, EntryType::Regular, "./up/escaped", "");
    entry(&mut builder, EntryType::Symlink, "./absolute", "/etc");
    entry(&mut builder, EntryType::Symlink, "./d/inside", "../d/file");
    entry(&mut builder, EntryType::Directory, "./x", "");
    entry(&mut builder, EntryType::Directory, "./x/y", "");
    entry(&mut builder, EntryType::Symlink, "./x/y/back", "../..");
    entry(&mut builder, EntryType::Symlink, "./x/y/back/out", "..");
    entry(&mut builder, EntryType::Regular, "./x/y/back/file", "");
    entry(&mut builder, EntryType::Symlink, "./around", "d/../..");
    // Hard links: absolute, upwards, through a link, to another user's file, to itself.
    entry(&mut builder, EntryType::Link, "./hard", "/etc/passwd");
    entry(&mut builder, EntryType::Link, "./hard-up", "../secret");
    entry(&mut builder, EntryType::Link, "./hard-absolute", up);
    entry(
        &mut builder,
        EntryType::Link,
        "./hard-link",
        "./x/y/back/d/file",
    );
    entry(&mut builder, EntryType::Link, "./hard-mine", "./mine");
    entry(&mut builder, EntryType::Link, "./mine", "./mine");
    entry(&mut builder, EntryType::Link, "./d/file", "d/file");
    entry(&mut builder, EntryType::Link, "./pipe-2", "./pipe");
    entry(&mut builder, EntryType::Link, "./d", "./d/file");
    entry(&mut builder, EntryType::Fifo, "./pipe", "");
    entry(&mut builder, EntryType::Link, "./pipe-3", "./pipe");
    entry(&mut builder, EntryType::Block, "./block", "");
    // A link of the user in the target is not followed either.
    entry(&mut builder, EntryType::Regular, "./theirs/escaped", "");

    fs::create_dir(&to).unwrap();
    fs::write(to.join("mine"), "mine").unwrap();
    symlink("..", to.join("theirs")).unwrap();
    let skipped = unpack(&to, arriving(builder.into_inner().unwrap())).unwrap();

    let mut found: Vec<_> = fs::read_dir(outside.path()).unwrap().flatten().collect();
    found.retain(|entry| entry.file_name() != "to" && entry.file_name() != "secret");
    assert!(found.is_empty(), "{found:?}");
    assert_eq!(fs::metadata(&secret).unwrap().nlink(), 1);
    assert_eq!(fs::metadata(to.join("mine")).unwrap().nlink(), 1);
    assert_eq!(fs::read(to.join("d/file")).unwrap(), b"x");
    assert_eq!(fs::read(to.join("d/inside")).unwrap(), b"x");

    let mut names: Vec<_> = fs::read_dir(&to)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, ["d", "mine", "theirs", "x"]);

    let mode = to.join("d/file").metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o7000, 0, "no setuid bits");
    assert!(!Path::new("/tmp/fumehood-escaped").exists());

    // Everything that is missing is reported.
    assert_eq!(skipped.count, 21, "{skipped:#?}");
    let reasons = reasons(&skipped);
    assert!(reasons.contains(&("absolute", "an absolute link (to /etc)")));
    assert!(reasons.contains(&("pipe", "a FIFO")));
    assert!(reasons.contains(&("pipe-3", "a hard link to a file that is not copied")));
    assert!(reasons.contains(&("block", "a device")));
}

#[test]
fn a_packed_directory_can_be_unpacked() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::create_dir_all(from.path().join("a/b")).unwrap();
    let long = "x".repeat(200);
    fs::write(from.path().join("a/b").join(&long), vec![7; 300_000]).unwrap();
    symlink("b", from.path().join("a/link")).unwrap();

    let (bytes, skipped) = packed(from.path());
    assert_eq!(skipped, SkippedFiles::default());
    let skipped = unpack(to.path(), arriving(bytes)).unwrap();
    assert_eq!(skipped, SkippedFiles::default());
    let copy = to.path().join("a/link").join(&long);
    assert_eq!(fs::read(copy).unwrap(), vec![7; 300_000]);
}

/// Creates a directory with a file of each kind.
fn create_matrix(root: &Path) {
    let write = |name: &str, content: &[u8]| fs::write(root.join(name), content).unwrap();
    let odd = std::ffi::OsStr::from_bytes;

    write("regular", b"content");
    write("empty", b"");
    write("-leading", b"dash");
    write("line\nend", b"newline");
    write(&"n".repeat(255), b"long");
    fs::write(root.join(odd(b"not-utf8-\xff")), b"bytes").unwrap();

    // Holes at the start, in the middle and at the end; nothing but a hole; more parts than a header has.
    for (name, size, parts) in [
        ("sparse", 40 << 20, &[(1 << 20, 5), (20 << 20, 70_000)][..]),
        ("hole", 1 << 40, &[]),
        ("odd-size", (8 << 20) + 77, &[((8 << 20) + 70, 7)]),
    ] {
        let file = fs::File::create(root.join(name)).unwrap();
        file.set_len(size).unwrap();
        for (offset, len) in parts {
            std::os::unix::fs::FileExt::write_all_at(&file, &vec![7; *len], *offset).unwrap();
        }
    }
    let file = fs::File::create(root.join("many-parts")).unwrap();
    for part in 0..60 {
        std::os::unix::fs::FileExt::write_all_at(&file, b"part", part << 20).unwrap();
    }

    // Hard links: of two names inside, and of one inside and one outside.
    fs::hard_link(root.join("regular"), root.join("regular-2")).unwrap();
    fs::hard_link(root.join("empty"), root.parent().unwrap().join("outside")).unwrap();

    for (name, target) in [
        ("relative", "regular"),
        ("dangling", "none"),
        ("loop", "loop"),
        ("absolute", "/etc/passwd"),
        ("up", "../outside"),
        ("slashes", "./deep//d/../d"),
    ] {
        symlink(target, root.join(name)).unwrap();
    }
    fs::hard_link(root.join("relative"), root.join("relative-2")).unwrap();

    mknodat(CWD, root.join("fifo"), FileType::Fifo, Mode::from(0o644), 0).unwrap();
    std::os::unix::net::UnixListener::bind(root.join("socket")).unwrap();

    write("setuid", b"setuid");
    write("locked", b"locked");
    fs::create_dir(root.join("read-only")).unwrap();
    write("read-only/file", b"in a read-only directory");
    for (name, mode) in [("setuid", 0o4755), ("locked", 0o000), ("read-only", 0o555)] {
        fs::set_permissions(root.join(name), Permissions::from_mode(mode)).unwrap();
    }

    for (name, seconds) in [
        ("1901", -2_177_452_800),
        ("1970", 0),
        ("2106", 4_294_967_296),
    ] {
        write(name, name.as_bytes());
        set_time(&root.join(name), seconds);
    }
    write("2300", b"2300");
    set_time(&root.join("2300"), 10_413_792_000);

    let deep = (0..60).fold(root.join("deep"), |path, _| path.join("d"));
    fs::create_dir_all(&deep).unwrap();
    fs::write(deep.join("bottom"), b"deep").unwrap();
}

fn set_time(path: &Path, seconds: i64) {
    let time = rustix::fs::Timespec {
        tv_sec: seconds,
        tv_nsec: 0,
    };
    let times = rustix::fs::Timestamps {
        last_access: time,
        last_modification: time,
    };
    rustix::fs::utimensat(CWD, path, &times, rustix::fs::AtFlags::empty()).unwrap();
}

/// Every path below a directory.
fn all_paths(root: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut directories = vec![root.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.symlink_metadata().unwrap().is_dir() {
                directories.push(path.clone());
            }
            found.push(path.strip_prefix(root).unwrap().to_owned());
        }
    }
    found.sort();
    found
}

#[test]
fn every_kind_of_file_is_copied_or_reported() {
    let (source, target) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (from, to) = (source.path().join("from"), target.path().join("to"));
    fs::create_dir(&from).unwrap();
    create_matrix(&from);

    let is_root = rustix::process::geteuid().is_root();
    let (bytes, not_packed) = packed(&from);
    let mut expected = vec![("socket", "a socket")];
    if !is_root {
        let denied = "cannot be read: Permission denied (os error 13)";
        expected.insert(0, ("locked", denied));
    }
    assert_eq!(reasons(&not_packed), expected);
    assert!(bytes.len() < 4 << 20, "holes are not sent: {}", bytes.len());

    let not_unpacked = unpack(&to, arriving(bytes)).unwrap();
    let too_large = format!("the directory has more than {MAX_TREE_BYTES} bytes with it");
    assert_eq!(
        reasons(&not_unpacked),
        [
            ("absolute", "an absolute link (to /etc/passwd)"),
            ("fifo", "a FIFO"),
            ("hole", too_large.as_str()),
            ("slashes", "a link out of the directory (to ./deep//d/../d)"),
            ("up", "a link out of the directory (to ../outside)"),
        ]
    );
    assert_eq!((not_unpacked.count, not_unpacked.failed), (5, 1));

    // Each path was copied, or is in one of the lists.
    let reported = |path: &Path| {
        let listed = not_packed.files.iter().chain(&not_unpacked.files);
        listed.clone().any(|file| Path::new(&file.path) == path)
    };
    for path in all_paths(&from) {
        let (old, new) = (from.join(&path), to.join(&path));
        assert_eq!(
            new.symlink_metadata().is_err(),
            reported(&path),
            "{}",
            path.display()
        );
        if reported(&path) {
            continue;
        }

        let (a, b) = (
            old.symlink_metadata().unwrap(),
            new.symlink_metadata().unwrap(),
        );
        assert_eq!(a.file_type(), b.file_type(), "{}", path.display());
        if a.is_symlink() {
            assert_eq!(fs::read_link(&old).unwrap(), fs::read_link(&new).unwrap());
            continue;
        }

        assert_eq!(a.mtime(), b.mtime(), "{}", path.display());
        assert_eq!(a.mode() & 0o777, b.mode() & 0o777, "{}", path.display());
        assert_eq!(b.mode() & 0o7000, 0, "{}", path.display());
        if a.is_file() {
            assert_eq!(a.len(), b.len(), "{}", path.display());
            assert!(is_root || path != Path::new("locked"));
            assert!(
                fs::read(&old).unwrap() == fs::read(&new).unwrap(),
                "{}",
                path.display()
            );
        }
    }

    let inode = |name: &str| to.join(name).symlink_metadata().unwrap().ino();
    assert_eq!(inode("regular"), inode("regular-2"));
    assert_eq!(inode("relative"), inode("relative-2"));
    let blocks = to.join("sparse").metadata().unwrap().blocks();
    assert!(
        blocks * 512 < 1 << 20,
        "the copy has holes: {blocks} blocks"
    );
}

#[test]
fn a_sparse_file_counts_with_its_holes() {
    let (source, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for name in ["a", "b"] {
        let file = fs::File::create(source.path().join(name)).unwrap();
        file.set_len(MAX_TREE_BYTES / 2 + 1).unwrap();
    }
    fs::write(source.path().join("c"), "small").unwrap();

    let (bytes, _) = packed(source.path());
    let skipped = unpack(to.path(), arriving(bytes)).unwrap();
    assert_eq!(skipped.files.len(), 1);
    assert_eq!(skipped.files[0].path, "b");
    assert_eq!(fs::read(to.path().join("c")).unwrap(), b"small");
}

#[test]
fn what_is_in_the_way_on_this_host_is_reported() {
    let to = tempfile::tempdir().unwrap();
    fs::create_dir_all(to.path().join("directory/with")).unwrap();
    fs::write(to.path().join("file"), "old").unwrap();
    fs::write(to.path().join("replaced"), "old").unwrap();

    let mut builder = Builder::new(Vec::new());
    entry(&mut builder, EntryType::Regular, "./directory", "");
    entry(&mut builder, EntryType::Directory, "./file", "");
    entry(&mut builder, EntryType::Regular, "./file/in-it", "");
    entry(&mut builder, EntryType::Regular, "./replaced", "");
    let skipped = unpack(to.path(), arriving(builder.into_inner().unwrap())).unwrap();

    assert_eq!(
        reasons(&skipped),
        [
            ("directory", "a directory of that name exists on this host"),
            ("file", "a file of that name exists on this host"),
            (
                "file/in-it",
                "its directory on this host is a link or a file"
            ),
        ]
    );
    assert_eq!(skipped.failed, 3);
    assert_eq!(fs::read(to.path().join("file")).unwrap(), b"old");
    assert_eq!(fs::read(to.path().join("replaced")).unwrap(), b"x");
}

#[test]
fn an_incomplete_file_is_removed() {
    let to = tempfile::tempdir().unwrap();
    let mut builder = Builder::new(Vec::new());
    sized_entry(
        &mut builder,
        EntryType::Regular,
        "./file",
        "",
        &[1; 100_000],
    );
    let mut bytes = builder.into_inner().unwrap();
    bytes.truncate(50_000);

    let error = unpack(to.path(), arriving(bytes)).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::UnexpectedEof, "{error}");
    assert_eq!(fs::read_dir(to.path()).unwrap().count(), 0);
}

#[test]
fn files_with_paths_too_long_for_a_guest_are_skipped() {
    let source = tempfile::tempdir().unwrap();
    let mut directory = source.path().to_owned();
    // A relative path of 4,095 bytes is too long together with the directory on this host.
    while directory.as_os_str().len() < 3900 {
        directory.push("d".repeat(100));
    }
    fs::create_dir_all(&directory).unwrap();
    fs::write(directory.join("file"), "x").unwrap();

    let (bytes, skipped) = packed(source.path());
    assert_eq!(skipped, SkippedFiles::default());
    assert!(!bytes.is_empty());

    // On the way back, the target makes the path longer: it is walked step by step.
    let to = tempfile::tempdir().unwrap();
    let target = to.path().join("t".repeat(200));
    let skipped = unpack(&target, arriving(bytes)).unwrap();
    assert_eq!(skipped, SkippedFiles::default());
}
