//! Files that are too large to be held in memory. This is the only test of its program, since it measures its memory.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::ErrorKind as Io;
use std::time::Instant;

use fumehood_end_to_end::{random_bytes, resident_mib, sandbox, sha256_hex, shell_ok};
use fumehood_engine::WriteOptions;
use sha2::{Digest, Sha256};

/// Lists the home directory, except for the directory of packages.
const LEFT: &str = "ls -A | grep -vx -e .local -e main.sh || true";

/// Neither side holds it: 400 MB in a guest of 1 GiB, through a host that grows by a fraction of it.
#[tokio::test(flavor = "multi_thread")]
async fn a_large_file_is_transferred_in_bounded_memory() {
    const BYTES: usize = 400_000_000;
    let sandbox = sandbox(1024).await;
    let files = sandbox.files();
    let piece = random_bytes(1 << 20);
    let source = std::iter::repeat_n(piece.clone(), BYTES >> 20);
    let mut host = tempfile::NamedTempFile::new().unwrap();
    let mut hasher = Sha256::new();

    for piece in source {
        std::io::Write::write_all(&mut host, &piece).unwrap();
        hasher.update(&piece);
    }

    let digest: String = hasher
        .finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();

    let before = resident_mib(std::process::id());
    let from = tokio::fs::File::open(host.path()).await.unwrap();
    let up = Instant::now();
    let len = files
        .upload("big", from, WriteOptions::default())
        .await
        .unwrap();

    let up = up.elapsed();
    let copy = tempfile::NamedTempFile::new().unwrap();
    let to = tokio::fs::File::create(copy.path()).await.unwrap();
    let down = Instant::now();
    assert_eq!(files.download("big", to).await.unwrap(), len);
    eprintln!("{len} bytes: up in {up:?}, down in {:?}", down.elapsed());
    let grown = resident_mib(std::process::id()).saturating_sub(before);
    assert!(grown < 40, "this process grew by {grown} MiB");
    let agent = shell_ok(&sandbox, "cat /proc/1/status 2>/dev/null || echo hidden").await;
    assert_eq!(agent, "hidden\n", "the agent is not to be seen");
    let copied = sha256_hex(&std::fs::read(copy.path()).unwrap());
    assert_eq!(copied, digest);

    // Past it, the disk is full, and the message says of what it is a part.
    let error = files
        .write("more", random_bytes(150_000_000))
        .await
        .unwrap_err();
    assert_eq!(error.io_kind(), Some(Io::StorageFull), "{error}");
    assert!(
        error.to_string().contains("half of the guest's memory"),
        "{error}"
    );

    let unannounced = &random_bytes(200_000_000)[..];
    let error = files
        .upload("more", unannounced, WriteOptions::default())
        .await
        .unwrap_err();
    assert_eq!(error.io_kind(), Some(Io::StorageFull), "{error}");
    assert_eq!(shell_ok(&sandbox, LEFT).await, "big\n");
    files.remove("big").await.unwrap();
    files
        .write("more", random_bytes(150_000_000))
        .await
        .unwrap();
}
