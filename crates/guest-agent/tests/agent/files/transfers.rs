//! Reading, writing, listing, moving and removing files.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use fumehood_protocol::{
    ActionTag, Entry, ErrorMessage, ErrorType, FileInfo, FileKind, GuestPath, ListFiles, MakeDir,
    MoveFile, OpId, ReadFile, RemoveFile, Request, Response, Stat, Stream, Transferred, WriteFile,
};

use crate::operations::input::{frame, stdin};
use crate::support::{Agent, Client, wait_until};

fn path(path: &str) -> GuestPath {
    GuestPath::new(path)
}

fn write_request(id: u64, to: &str) -> WriteFile {
    WriteFile {
        action: ActionTag,
        op_id: OpId::try_from(id).ok(),
        path: path(to),
        mode: None,
        size: None,
        parents: false,
    }
}

/// Sends a complete file and returns the answer.
fn send(client: &mut Client, request: WriteFile, bytes: &[u8]) -> Response {
    let id = request.op_id.unwrap().get();
    client.send(&Request::WriteFile(request));
    let mut allowed = 262_144_u64;
    for piece in bytes.chunks(65_536) {
        while allowed < piece.len() as u64 {
            match client.response() {
                Response::Credit(credit) => allowed += credit.bytes,
                other => return other,
            }
        }
        allowed -= piece.len() as u64;
        frame(client, id, piece, false);
    }
    frame(client, id, b"", true);
    loop {
        match client.response() {
            Response::Credit(_) => {}
            other => return other,
        }
    }
}

fn put(client: &mut Client, to: &str, bytes: &[u8]) -> Transferred {
    match send(client, write_request(1, to), bytes) {
        Response::Transferred(transferred) => {
            assert_eq!(transferred.bytes, bytes.len() as u64);
            assert_eq!(transferred.crc32c, crc32c::crc32c(bytes));
            transferred
        }
        other => panic!("{other:?}"),
    }
}

fn read_request(from: &str) -> ReadFile {
    ReadFile {
        action: ActionTag,
        op_id: OpId::try_from(2).ok(),
        path: path(from),
        offset: None,
        len: None,
        credit: None,
    }
}

fn fetch(client: &mut Client, request: ReadFile) -> Result<Vec<u8>, ErrorMessage> {
    client.send(&Request::ReadFile(request));
    let mut all = Vec::new();
    loop {
        let (response, bytes) = client.message();
        match response {
            Response::Data(data) => {
                assert_eq!(data.stream, Stream::File);
                all.extend(bytes);
            }
            Response::File(output) => all.extend(output.chunk.into_bytes()),
            Response::Transferred(end) => {
                assert_eq!(
                    (end.bytes, end.crc32c),
                    (all.len() as u64, crc32c::crc32c(&all))
                );
                return Ok(all);
            }
            Response::Error(error) => return Err(error),
            other => panic!("{other:?}"),
        }
    }
}

fn get(client: &mut Client, from: &str) -> Vec<u8> {
    fetch(client, read_request(from)).unwrap()
}

fn stat(client: &mut Client, at: &str) -> Result<FileInfo, ErrorMessage> {
    client.send(&Request::Stat(Stat {
        action: ActionTag,
        op_id: None,
        path: path(at),
    }));
    match client.response() {
        Response::Entry(Entry { entry, .. }) => Ok(entry),
        Response::Error(error) => Err(error),
        other => panic!("{other:?}"),
    }
}

fn list(client: &mut Client, at: &str, depth: u32) -> Result<Vec<FileInfo>, ErrorMessage> {
    client.send(&Request::ListFiles(ListFiles {
        action: ActionTag,
        op_id: None,
        path: path(at),
        depth: Some(depth),
    }));
    let mut all = Vec::new();
    loop {
        match client.response() {
            Response::Entries(entries) => {
                all.extend(entries.entries);
                if entries.last {
                    all.sort_by(|a, b| a.path.cmp(&b.path));
                    return Ok(all);
                }
            }
            Response::Error(error) => return Err(error),
            other => panic!("{other:?}"),
        }
    }
}

fn done(client: &mut Client, request: Request) -> Result<(), ErrorMessage> {
    client.send(&request);
    match client.response() {
        Response::Done(_) => Ok(()),
        Response::Error(error) => Err(error),
        other => panic!("{other:?}"),
    }
}

fn move_request(from: &str, to: &str, replace: bool) -> Request {
    Request::Move(MoveFile {
        action: ActionTag,
        op_id: None,
        from: path(from),
        to: path(to),
        replace,
    })
}

fn remove_request(at: &str, recursive: bool) -> Request {
    Request::Remove(RemoveFile {
        action: ActionTag,
        op_id: None,
        path: path(at),
        recursive,
    })
}

fn dir_request(at: &str, parents: bool, mode: Option<u32>) -> Request {
    Request::MakeDir(MakeDir {
        action: ActionTag,
        op_id: None,
        path: path(at),
        parents,
        mode,
    })
}

fn mode_of(path: &Path) -> u32 {
    path.metadata().unwrap().permissions().mode() & 0o7777
}

#[test]
fn files_are_transferred_byte_for_byte() {
    let agent = Agent::open();
    let mut client = agent.hello(&["raw_frames"]);
    let big: Vec<u8> = (0..3_000_000_u32)
        .flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes())
        .collect();
    for bytes in [&b""[..], b"\n", b"\xff\0\xfe", &big[..65_536], &big] {
        put(&mut client, "file", bytes);
        assert_eq!(
            std::fs::read(agent.directory.path().join("file")).unwrap(),
            bytes
        );
        assert!(get(&mut client, "file") == bytes, "{} bytes", bytes.len());
    }
    let mut part = read_request("file");
    (part.offset, part.len) = (Some(1_000_000), Some(100_001));
    assert_eq!(fetch(&mut client, part).unwrap(), big[1_000_000..1_100_001]);
    let mut past = read_request("file");
    past.offset = Some(1 << 40);
    assert_eq!(fetch(&mut client, past).unwrap(), b"");
    // Without raw frames the same bytes arrive as chunks.
    let mut client = agent.hello(&[]);
    client.send(&Request::WriteFile(write_request(1, "text")));
    stdin(&mut client, 1, b"a\xffb", false);
    stdin(&mut client, 1, "ä".as_bytes(), true);
    assert!(matches!(client.response(), Response::Transferred(_)));
    assert_eq!(get(&mut client, "text"), b"a\xffb\xc3\xa4");
}

#[test]
fn file_appears_complete_or_not_at_all() {
    let agent = Agent::open();
    let mut client = agent.hello(&["raw_frames"]);
    let home = agent.directory.path();
    put(&mut client, "file", b"old");
    client.send(&Request::WriteFile(write_request(1, "file")));
    frame(&mut client, 1, b"half", false);
    client.ping();
    assert_eq!(std::fs::read(home.join("file")).unwrap(), b"old");
    assert_eq!(std::fs::read_dir(home).unwrap().count(), 2);
    client.cancel(1);
    assert!(matches!(client.response(), Response::Done(_)));
    assert_eq!(std::fs::read_dir(home).unwrap().count(), 1);
    // The same happens when the client disconnects.
    client.send(&Request::WriteFile(write_request(1, "file")));
    frame(&mut client, 1, b"half", false);
    client.ping();
    drop(client);
    wait_until("the half file is removed", || {
        std::fs::read_dir(home).unwrap().count() == 1
    });
    assert_eq!(std::fs::read(home.join("file")).unwrap(), b"old");
    let mut client = agent.hello(&["raw_frames"]);
    let mut short = write_request(1, "file");
    short.size = Some(5);
    let Response::Error(error) = send(&mut client, short, b"four") else {
        panic!()
    };
    assert!(error.message.contains("5 bytes"), "{}", error.message);
    assert_eq!(get(&mut client, "file"), b"old");
}

#[test]
fn permissions_and_parents() {
    let agent = Agent::open();
    let mut client = agent.hello(&["raw_frames"]);
    let home = agent.directory.path();
    assert_eq!(put(&mut client, "new", b"").mode, 0o644);
    let with_mode = |mode, parents, to: &str| WriteFile {
        mode,
        parents,
        ..write_request(1, to)
    };
    send(&mut client, with_mode(Some(0o751), false, "run"), b"");
    assert_eq!(mode_of(&home.join("run")), 0o751);
    assert_eq!(put(&mut client, "run", b"again").mode, 0o751);
    send(&mut client, with_mode(None, true, "a/b/../c/file"), b"x");
    assert!(home.join("a/b").is_dir());
    assert_eq!(std::fs::read(home.join("a/c/file")).unwrap(), b"x");
    done(&mut client, dir_request("d", false, Some(0o700))).unwrap();
    assert_eq!(mode_of(&home.join("d")), 0o700);
    done(&mut client, dir_request("e/f/g", true, None)).unwrap();
    done(&mut client, dir_request("e/f/g/", true, None)).unwrap();
    assert!(
        done(&mut client, dir_request("e/f/g", false, None))
            .unwrap_err()
            .errno
            == Some(17)
    );
    let absolute = home.join("e/f/absolute");
    put(&mut client, absolute.to_str().unwrap(), b"here");
    assert_eq!(stat(&mut client, "e/f/absolute").unwrap().size, 4);
}

#[test]
fn listing_shows_all_entries() {
    let agent = Agent::start(&["--no-token", "--limit", "list_entries=300"]);
    let mut client = agent.hello(&["raw_frames"]);
    let home = agent.directory.path();
    std::fs::create_dir_all(home.join("d/e/f")).unwrap();
    std::fs::write(home.join("d/file"), "12345").unwrap();
    symlink("nowhere", home.join("d/link")).unwrap();
    let paths = |entries: &[FileInfo]| {
        let paths: Vec<_> = entries.iter().map(|e| e.path.clone()).collect();
        paths.join(" ")
    };
    let flat = list(&mut client, "d", 1).unwrap();
    assert_eq!(paths(&flat), "e file link");
    let kinds: Vec<_> = flat.iter().map(|entry| entry.kind).collect();
    assert_eq!(kinds, [FileKind::Directory, FileKind::File, FileKind::Link]);
    assert_eq!(
        (flat[1].size, flat[2].target.as_deref()),
        (5, Some("nowhere"))
    );
    let age = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap();
    let age = i64::try_from(age.as_micros()).unwrap() - flat[1].modified_us;
    assert!((0..60_000_000).contains(&age), "{age}");
    assert_eq!(
        paths(&list(&mut client, "d", 9).unwrap()),
        "e e/f file link"
    );
    let link = stat(&mut client, "d/link").unwrap();
    assert_eq!((link.kind, link.path.as_str()), (FileKind::Link, "d/link"));
    assert_eq!(stat(&mut client, "d/").unwrap().kind, FileKind::Directory);
    assert_eq!(stat(&mut client, ".").unwrap().kind, FileKind::Directory);
    for n in 0..301 {
        std::fs::write(home.join(format!("d/e/{n}")), "").unwrap();
    }
    assert_eq!(list(&mut client, "d/e", 1).unwrap().len(), 300);
    assert_eq!(list(&mut client, "none", 1).unwrap_err().errno, Some(2));
    assert_eq!(list(&mut client, "d/file", 1).unwrap_err().errno, Some(20));
}

#[test]
fn files_are_moved_and_removed() {
    let agent = Agent::open();
    let mut client = agent.hello(&["raw_frames"]);
    let home = agent.directory.path();
    put(&mut client, "a", b"a");
    put(&mut client, "b", b"b");
    assert_eq!(
        done(&mut client, move_request("a", "b", false))
            .unwrap_err()
            .errno,
        Some(17)
    );
    done(&mut client, move_request("a", "b", true)).unwrap();
    assert_eq!(get(&mut client, "b"), b"a");
    let error = done(&mut client, move_request("none", "b", true)).unwrap_err();
    assert!(error.message.contains("none"), "{}", error.message);
    done(&mut client, remove_request("b", false)).unwrap();
    assert_eq!(
        done(&mut client, remove_request("b", false))
            .unwrap_err()
            .errno,
        Some(2)
    );
    for n in 0..1000 {
        let directory = home.join(format!("tree/{}/{}", n % 7, n % 31));
        std::fs::create_dir_all(&directory).unwrap();
        std::fs::write(directory.join(n.to_string()), "x").unwrap();
    }
    std::fs::write(home.join("outside"), "kept").unwrap();
    symlink("../outside", home.join("tree/link")).unwrap();
    symlink(home, home.join("tree/home")).unwrap();
    assert_eq!(
        done(&mut client, remove_request("tree", false))
            .unwrap_err()
            .errno,
        Some(39)
    );
    done(&mut client, remove_request("tree", true)).unwrap();
    assert!(!home.join("tree").exists());
    assert_eq!(std::fs::read(home.join("outside")).unwrap(), b"kept");
    std::fs::create_dir(home.join("empty")).unwrap();
    done(&mut client, remove_request("empty/", false)).unwrap();
    for odd in [".", "..", "/", "a/.."] {
        assert_eq!(
            done(&mut client, remove_request(odd, true))
                .unwrap_err()
                .errno,
            Some(22),
            "{odd}"
        );
    }
}

/// A link at the path itself is replaced; its target is not touched.
#[test]
fn links_do_not_escape() {
    let agent = Agent::open();
    let mut client = agent.hello(&["raw_frames"]);
    let home = agent.directory.path();
    let outside = tempfile::tempdir().unwrap();
    let victim = outside.path().join("victim");
    std::fs::write(&victim, "precious").unwrap();
    symlink(&victim, home.join("link")).unwrap();
    put(&mut client, "link", b"mine");
    assert_eq!(std::fs::read(&victim).unwrap(), b"precious");
    assert_eq!(get(&mut client, "link"), b"mine");
    // Clients must not see the agent's own procfs files.
    symlink("/proc/self/environ", home.join("secret")).unwrap();
    symlink("/proc/self", home.join("self")).unwrap();
    for from in [
        "secret",
        "self/environ",
        "self/fd/0",
        "/proc/1/environ",
        "/proc/version",
    ] {
        fetch(&mut client, read_request(from)).unwrap_err();
    }
    assert!(list(&mut client, "self/", 1).is_err() && list(&mut client, "/proc", 1).is_err());
    let Response::Error(_) = send(&mut client, write_request(1, "self/comm"), b"x") else {
        panic!()
    };
    // Pipes and devices are rejected without waiting for them.
    rustix::fs::mknodat(
        rustix::fs::CWD,
        home.join("pipe"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o666),
        0,
    )
    .unwrap();
    for from in ["pipe", "/dev/zero", "."] {
        fetch(&mut client, read_request(from)).unwrap_err();
    }
    for to in ["pipe", ".", "..", "a/.", "/"] {
        let answer = send(&mut client, write_request(1, to), b"x");
        assert!(matches!(answer, Response::Error(_)), "{to}: {answer:?}");
    }
    client.ping();
}

#[test]
fn sizes_beyond_a_limit_are_rejected() {
    let agent = Agent::start(&["--no-token", "--limit", "file_bytes=100000"]);
    let mut client = agent.hello(&["raw_frames"]);
    put(&mut client, "fits", &[7; 100_000]);
    let mut refused = |request: WriteFile, part: &str| {
        let Response::Error(error) = send(&mut client, request, &[7; 100_001]) else {
            panic!()
        };
        assert_eq!(error.error_type, ErrorType::PathError);
        assert!(error.message.contains(part), "{}", error.message);
    };
    refused(write_request(1, "more"), "100001 bytes");
    let announced = WriteFile {
        size: Some(100_001),
        ..write_request(1, "more")
    };
    refused(announced, "file_bytes");
    refused(write_request(1, "none/more"), "No such file");
    refused(write_request(1, &"x".repeat(300)), "too long");
    refused(
        WriteFile {
            mode: Some(0o10000),
            ..write_request(1, "more")
        },
        "0o10000",
    );
    drop(client);
    assert_eq!(
        std::fs::read_dir(agent.directory.path()).unwrap().count(),
        1
    );
}

/// A slow reader of one file does not block others, and the agent buffers nothing for it.
#[test]
fn reading_waits_for_credit() {
    let agent = Agent::open();
    let mut client = agent.hello(&["raw_frames"]);
    std::fs::write(agent.directory.path().join("big"), vec![b'x'; 50_000_000]).unwrap();
    let mut request = read_request("big");
    request.credit = Some(100_000);
    client.send(&Request::ReadFile(request));
    let mut came = 0;
    while came < 100_000 {
        came += client.message().1.len();
    }
    client.ping();
    let before = agent.resident_kib();
    put(&mut client, "other", b"meanwhile");
    client.credit(2, 5);
    assert_eq!(client.message().1, b"xxxxx");
    assert!(agent.resident_kib() < before + 2000);
    client.cancel(2);
    assert!(matches!(client.response(), Response::Done(_)));
    client.ping();
}
