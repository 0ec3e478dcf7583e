//! Streams that no tar writes.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use tar::{Builder, EntryType, GnuExtSparseHeader, Header};

use super::stream::MAX_TREE_BYTES;
use super::tests::{arriving, entry, reasons, sized_entry};
use super::unpack::{MAX_DEPTH, unpack};
use crate::run::SkippedFiles;

/// Long enough for each stream here on a busy machine, and far too short for an algorithm that is not linear.
const DEADLINE: Duration = Duration::from_secs(30);

/// Unpacks a stream into a new directory, within [`DEADLINE`].
fn unpacked(stream: Vec<u8>) -> (tempfile::TempDir, io::Result<SkippedFiles>) {
    let to = tempfile::tempdir().unwrap();
    let start = Instant::now();
    let result = unpack(to.path(), arriving(stream));
    assert!(start.elapsed() < DEADLINE, "{:?}", start.elapsed());

    (to, result)
}

fn assert_invalid(stream: Vec<u8>, reason: &str) {
    let (_, result) = unpacked(stream);
    let error = result.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
    assert!(error.to_string().contains(reason), "{error}");
}

fn header(kind: EntryType, path: &str, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
    header.set_mode(0o644);
    header.set_mtime(1);
    header.set_size(size);
    header.set_cksum();
    header
}

/// A header with a field that the library would not write.
fn with_field(kind: EntryType, path: &str, field: std::ops::Range<usize>, value: &[u8]) -> Vec<u8> {
    let mut header = header(kind, path, 0);
    header.as_mut_bytes()[field].copy_from_slice(value);
    header.set_cksum();
    header.as_bytes().to_vec()
}

/// Adds a header that describes the next entry.
fn extension(stream: &mut Vec<u8>, kind: EntryType, content: &[u8]) {
    stream.extend(header(kind, "././@LongLink", content.len() as u64).as_bytes());
    stream.extend(content);
    stream.resize(stream.len().next_multiple_of(512), 0);
}

/// A sparse file with these parts, as offset and length, with `size` bytes together with its holes.
fn sparse(path: &str, size: u64, parts: &[(u64, u64)]) -> Vec<u8> {
    let stored: u64 = parts.iter().map(|part| part.1).sum();
    let mut header = header(EntryType::GNUSparse, path, stored);
    let gnu = header.as_gnu_mut().unwrap();
    gnu.set_real_size(size);
    let (first, rest) = parts.split_at(parts.len().min(4));
    for (field, part) in gnu.sparse.iter_mut().zip(first) {
        field.set_offset(part.0);
        field.set_length(part.1);
    }
    gnu.set_is_extended(!rest.is_empty());
    header.set_cksum();

    let mut stream = header.as_bytes().to_vec();
    let mut blocks = rest.chunks(21).peekable();
    while let Some(parts) = blocks.next() {
        let mut block = GnuExtSparseHeader::new();
        for (field, part) in block.sparse.iter_mut().zip(parts) {
            field.set_offset(part.0);
            field.set_length(part.1);
        }
        block.set_is_extended(blocks.peek().is_some());
        stream.extend(block.as_bytes());
    }
    stream.extend(vec![7; usize::try_from(stored).unwrap()]);
    stream.resize(stream.len().next_multiple_of(512), 0);

    stream
}

#[test]
fn sparse_files_cost_no_more_than_their_maps() {
    // 40,000 holes of one byte, twenty times. A search from the first part for each would take minutes.
    let parts: Vec<(u64, u64)> = (1..40_000).map(|at| (at, 0)).collect();
    let mut stream = Vec::new();
    for n in 0..20 {
        stream.extend(sparse(&format!("./{n}"), 40_000, &parts));
    }
    let (to, skipped) = unpacked(stream);
    assert_eq!(skipped.unwrap(), SkippedFiles::default());
    assert_eq!(fs::metadata(to.path().join("19")).unwrap().len(), 40_000);

    // Every other page of 256 MiB.
    let parts: Vec<(u64, u64)> = (0..32_768).map(|at| (at * 8192, 1)).collect();
    let (to, skipped) = unpacked(sparse("./pages", 256 << 20, &parts));
    assert_eq!(skipped.unwrap(), SkippedFiles::default());
    let content = fs::read(to.path().join("pages")).unwrap();
    assert_eq!(content.iter().filter(|byte| **byte == 7).count(), 32_768);
    assert_eq!(content[8192 * 32_767], 7);
}

#[test]
fn wrong_maps_of_sparse_files_are_invalid() {
    for (size, parts) in [
        (1000, &[(0, 10), (5, 10)][..]),
        (1000, &[(100, 10), (0, 10)]),
        (5, &[(0, 10)]),
        (u64::MAX, &[(u64::MAX - 1, 0), (u64::MAX - 1, 10)]),
    ] {
        assert_invalid(sparse("./a", size, parts), "wrong map");
    }

    let parts: Vec<(u64, u64)> = (1..140_000).map(|at| (at, 0)).collect();
    assert_invalid(sparse("./a", 140_000, &parts), "parts");

    // The map has more than the content.
    let mut stream = sparse("./a", 1000, &[(0, 512)]);
    let mut header = Header::from_byte_slice(&stream[..512]).clone();
    header.set_size(511);
    header.set_cksum();
    stream[..512].copy_from_slice(header.as_bytes());
    assert_invalid(stream, "wrong map");

    let old = with_field(EntryType::GNUSparse, "./a", 257..265, &[0; 8]);
    assert_invalid(old, "another format");

    // A file with a huge hole is not written, and what follows is.
    let mut stream = sparse("./hole", u64::MAX - 1, &[(0, 3), (u64::MAX - 1, 0)]);
    stream.extend(sparse("./b", 3, &[(0, 3)]));
    let (to, skipped) = unpacked(stream);
    assert_eq!(skipped.unwrap().failed, 1);
    assert_eq!(fs::read(to.path().join("b")).unwrap(), [7; 3]);
}

#[test]
fn deep_directories_are_bounded_and_linear() {
    let mut stream = Vec::new();
    let mut path = String::from(".");
    for _ in 0..1950 {
        path.push_str("/d");
        extension(&mut stream, EntryType::GNULongName, path.as_bytes());
        stream.extend(header(EntryType::Directory, "", 0).as_bytes());
        extension(
            &mut stream,
            EntryType::GNULongName,
            format!("{path}/f").as_bytes(),
        );
        stream.extend(header(EntryType::Regular, "", 0).as_bytes());
    }

    let (to, skipped) = unpacked(stream);
    let skipped = skipped.unwrap();
    let mut deepest = to.path().to_owned();
    deepest.extend(vec!["d"; MAX_DEPTH]);
    assert!(deepest.join("f").is_file());
    assert!(!deepest.join("d/f").exists());
    assert!(skipped.files[0].reason.contains("128 directories"));
    // The innermost directory itself is made; its content is not.
    assert_eq!(skipped.failed, 2 * (1950 - MAX_DEPTH as u64) - 1);
}

#[test]
fn entries_far_from_each_other_are_walked_step_by_step() {
    let mut builder = Builder::new(Vec::new());
    let deep = |name: &str| format!("./{name}{}", "/d".repeat(40));
    for name in ["a", "b"] {
        let mut path = format!("./{name}");
        for _ in 0..=40 {
            entry(&mut builder, EntryType::Directory, &path, "");
            path.push_str("/d");
        }
    }
    for n in 0..2000 {
        let name = ["a", "b"][n % 2];
        entry(
            &mut builder,
            EntryType::Regular,
            &format!("{}/{n}", deep(name)),
            "",
        );
    }
    let linked = format!("{}/0", deep("a"));
    entry(
        &mut builder,
        EntryType::Link,
        &format!("{}/link", deep("b")),
        &linked,
    );

    let (to, skipped) = unpacked(builder.into_inner().unwrap());
    assert_eq!(skipped.unwrap(), SkippedFiles::default());
    assert_eq!(
        fs::read_dir(to.path().join(deep("a"))).unwrap().count(),
        1000
    );
    assert_eq!(
        fs::read(to.path().join(deep("b")).join("link")).unwrap(),
        b"x"
    );
}

/// In a process of its own, because the umask belongs to the process.
#[test]
fn a_guest_makes_nothing_writable_for_others_without_a_umask() {
    const CHILD: &str = "FUMEHOOD_TEST_WITHOUT_UMASK";
    if std::env::var_os(CHILD).is_none() {
        let name = "a_guest_makes_nothing_writable_for_others_without_a_umask";
        let output = Command::new("/bin/sh")
            .args(["-c", "umask 0 && exec \"$0\" \"$1\" --nocapture"])
            .arg(std::env::current_exe().unwrap())
            .arg(name)
            .env(CHILD, "1")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            output.status.success() && said.contains("1 passed"),
            "{said}"
        );
        return;
    }

    let mut stream = Vec::new();
    for mut entry in [
        header(EntryType::Directory, "./d", 0).as_bytes().to_vec(),
        header(EntryType::Regular, "./d/f", 0).as_bytes().to_vec(),
        sparse("./d/s", 1000, &[(0, 512)]),
    ] {
        let mut header = Header::from_byte_slice(&entry[..512]).clone();
        header.set_mode(0o7777);
        header.set_cksum();
        entry[..512].copy_from_slice(header.as_bytes());
        stream.extend(entry);
    }

    let (to, skipped) = unpacked(stream);
    assert_eq!(skipped.unwrap(), SkippedFiles::default());
    for path in ["d", "d/f", "d/s"] {
        let mode = fs::metadata(to.path().join(path))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o7777, 0o755, "{path}");
    }
}

#[test]
fn numbers_that_mean_nothing_are_invalid() {
    const MODE: std::ops::Range<usize> = 100..108;
    const SIZE: std::ops::Range<usize> = 124..136;
    const TIME: std::ops::Range<usize> = 136..148;

    for (field, value) in [
        (MODE, &b"rwxrwxrw"[..]),
        (SIZE, b"not a number"),
        (SIZE, b"-0000000001\0"),
        (SIZE, &[0xff; 12]),
        (
            SIZE,
            &[
                0x80, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
            ],
        ),
        (SIZE, b"777777777777"),
    ] {
        let (_, result) = unpacked(with_field(EntryType::Regular, "./a", field, value));
        assert_eq!(
            result.unwrap_err().kind(),
            io::ErrorKind::InvalidData,
            "{value:?}"
        );
    }

    for value in [
        &b"not a number"[..],
        &[0xff; 12],
        &[0x80; 12],
        b"777777777777",
    ] {
        let (to, result) = unpacked(with_field(EntryType::Regular, "./a", TIME, value));
        assert_eq!(result.unwrap(), SkippedFiles::default());
        assert!(to.path().join("a").exists());
    }

    let mut wrong_sum = header(EntryType::Regular, "./a", 0).as_bytes().to_vec();
    wrong_sum[0] = b'/';
    assert_invalid(wrong_sum, "checksum");
    assert_invalid(
        header(EntryType::Regular, "./a", MAX_TREE_BYTES + 1)
            .as_bytes()
            .to_vec(),
        "more than",
    );
}

#[test]
fn long_names_are_bounded() {
    let mut stream = Vec::new();
    let long = format!("./{}", "n/".repeat(2100));
    extension(&mut stream, EntryType::GNULongName, long.as_bytes());
    stream.extend(header(EntryType::Regular, "", 0).as_bytes());
    let long_link = "l".repeat(1 << 20);
    extension(&mut stream, EntryType::GNULongLink, long_link.as_bytes());
    stream.extend(header(EntryType::Symlink, "./link", 0).as_bytes());
    stream.extend(header(EntryType::Regular, "./after", 0).as_bytes());

    let (to, skipped) = unpacked(stream);
    let skipped = skipped.unwrap();
    assert_eq!(skipped.count, 2, "{skipped:?}");
    assert_eq!(skipped.files[0].reason, "its path is too long");
    let size: usize = skipped.files.iter().map(|file| file.reason.len()).sum();
    assert!(size < 10_000);
    assert!(to.path().join("after").exists());

    let mut stream = Vec::new();
    extension(&mut stream, EntryType::GNULongName, &[b'n'; (1 << 20) + 1]);
    assert_invalid(stream, "a header is too long");

    let mut stream = Vec::new();
    for _ in 0..10 {
        extension(&mut stream, EntryType::GNULongName, b"name\0");
    }
    assert_invalid(stream, "too many headers");
}

#[test]
fn the_format_of_posix_is_read() {
    let mut stream = Vec::new();
    extension(&mut stream, EntryType::XGlobalHeader, b"11 comment=\n");
    extension(
        &mut stream,
        EntryType::XHeader,
        b"15 path=./long\n10 size=3\n",
    );
    stream.extend(header(EntryType::Regular, "short", 0).as_bytes());
    stream.extend(b"abc");
    stream.resize(stream.len().next_multiple_of(512), 0);
    extension(&mut stream, EntryType::XHeader, b"17 linkpath=long\n");
    stream.extend(header(EntryType::Symlink, "./link", 0).as_bytes());
    extension(&mut stream, EntryType::XHeader, b"22 GNU.sparse.major=1\n");
    stream.extend(header(EntryType::Regular, "./sparse", 0).as_bytes());

    let (to, skipped) = unpacked(stream);
    let reason = "a sparse file in a form that is not supported";
    assert_eq!(reasons(&skipped.unwrap()), [("sparse", reason)]);
    assert_eq!(fs::read(to.path().join("link")).unwrap(), b"abc");

    for content in [&b"12 size=ten\n"[..], b"x", b"99 path=a\n"] {
        let mut stream = Vec::new();
        extension(&mut stream, EntryType::XHeader, content);
        stream.extend(header(EntryType::Regular, "./a", 0).as_bytes());
        assert_eq!(
            unpacked(stream).1.unwrap_err().kind(),
            io::ErrorKind::InvalidData
        );
    }
}

#[test]
fn later_entries_of_one_name_replace_files_and_nothing_else() {
    let mut builder = Builder::new(Vec::new());
    for content in [&b"first"[..], b"second"] {
        sized_entry(&mut builder, EntryType::Regular, "./a", "", content);
    }
    entry(&mut builder, EntryType::Directory, "./a", "");
    entry(&mut builder, EntryType::Regular, "./a/b", "");
    entry(&mut builder, EntryType::Directory, "./d", "");
    entry(&mut builder, EntryType::Directory, "./d", "");
    entry(&mut builder, EntryType::Regular, "./d/f", "");
    entry(&mut builder, EntryType::Symlink, "./d", "a");
    // Links in a circle, and a file through them.
    entry(&mut builder, EntryType::Symlink, "./x", "y");
    entry(&mut builder, EntryType::Symlink, "./y", "x");
    entry(&mut builder, EntryType::Regular, "./x/f", "");
    entry(&mut builder, EntryType::Link, "./h", "./x");
    entry(&mut builder, EntryType::Link, "./x", "./h");

    let (to, skipped) = unpacked(builder.into_inner().unwrap());
    let skipped = skipped.unwrap();
    let paths: Vec<_> = skipped
        .files
        .iter()
        .map(|file| file.path.as_str())
        .collect();
    assert_eq!(paths, ["a", "a/b", "d", "x/f"], "{skipped:#?}");
    assert_eq!(fs::read(to.path().join("a")).unwrap(), b"second");
    assert!(to.path().join("d/f").is_file());
}

#[test]
fn entries_are_bounded() {
    let root = header(EntryType::Directory, "./", 0);
    let stream = root.as_bytes().repeat(100_001);
    assert_invalid(stream, "100000 entries");
}

/// A generator of numbers that are the same in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 16).unwrap() % end
    }
}

/// A stream of random entries with few names, so that they meet each other.
fn random_stream(random: &mut Random) -> Vec<u8> {
    const NAMES: [&str; 9] = ["a", "b", "..", ".", "", "a/..", "/etc", "c", "a"];
    const KINDS: [EntryType; 8] = [
        EntryType::Regular,
        EntryType::Directory,
        EntryType::Directory,
        EntryType::Symlink,
        EntryType::Symlink,
        EntryType::Link,
        EntryType::Fifo,
        EntryType::Regular,
    ];
    let path = |random: &mut Random| {
        let names: Vec<_> = (0..=random.below(3))
            .map(|_| NAMES[random.below(9)])
            .collect();
        names.join("/")
    };

    let mut stream = Vec::new();
    for _ in 0..random.below(30) {
        if random.below(10) == 0 {
            stream.extend(sparse(&path(random), 9000, &[(0, 600), (4096, 1)]));
            continue;
        }

        let mut builder = Builder::new(Vec::new());
        let kind = KINDS[random.below(8)];
        let (path, target) = (path(random), path(random));
        entry(&mut builder, kind, &path, &target);
        let bytes = builder.into_inner().unwrap();
        // Without the two blocks that end a stream.
        stream.extend(&bytes[..bytes.len() - 1024]);
    }

    stream
}

#[test]
fn random_streams_write_nothing_outside() {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for round in 0..600 {
        let outside = tempfile::tempdir().unwrap();
        let to = outside.path().join("to");
        fs::create_dir(&to).unwrap();
        fs::write(outside.path().join("a"), "mine").unwrap();

        let mut stream = random_stream(&mut random);
        // Half of them with broken bytes, some of them with a correct sum.
        if round % 2 == 0 && !stream.is_empty() {
            for _ in 0..=random.below(4) {
                let at = random.below(stream.len());
                stream[at] = u8::try_from(random.below(256)).unwrap();
                let block = at - at % 512;
                let mut header = Header::from_byte_slice(&stream[block..block + 512]).clone();
                header.set_cksum();
                stream[block..block + 512].copy_from_slice(header.as_bytes());
            }
        }

        let _ = unpack(&to, arriving(stream));
        let mut names: Vec<PathBuf> = list(outside.path());
        names.sort();
        assert_eq!(
            names,
            [outside.path().join("a"), to.clone()],
            "round {round}"
        );
        assert_eq!(fs::read(outside.path().join("a")).unwrap(), b"mine");
        assert_links_stay_inside(&to, &to.canonicalize().unwrap());
    }
    io::stdout().flush().unwrap();
}

fn list(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).unwrap();
    entries.map(|entry| entry.unwrap().path()).collect()
}

fn assert_links_stay_inside(directory: &Path, root: &Path) {
    for path in list(directory) {
        let metadata = path.symlink_metadata().unwrap();
        if metadata.is_symlink() {
            if let Ok(target) = path.canonicalize() {
                assert!(target.starts_with(root), "{} leads out", path.display());
            }
        } else if metadata.is_dir() {
            let _ = fs::set_permissions(&path, fs::Permissions::from_mode(0o700));
            assert_links_stay_inside(&path, root);
        }
    }
}
