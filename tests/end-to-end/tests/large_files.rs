//! Files larger than either side would hold. Alone in its process, whose memory it measures.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::ErrorKind as Io;
use std::time::Instant;

use fumehood_end_to_end::{finish_ok, resident_mib};
use fumehood_engine::{Config, Engine, Language, RunRequest, Sandbox, WriteOptions};
use sha2::{Digest, Sha256};

/// What is in the home, but for the place of packages.
const LEFT: &str = "ls -A | grep -vx .local || true";

fn shell(code: impl Into<String>) -> RunRequest {
    RunRequest::new(Language::Shell, code).timeout_s(120)
}

async fn run_ok(sandbox: &Sandbox, code: &str) -> String {
    finish_ok(sandbox.run(&shell(code)).unwrap()).await.0
}

async fn sandbox(memory_mib: u32) -> Sandbox {
    let engine = Engine::start(Config::default()).unwrap();
    engine.sandbox().memory_mib(memory_mib).await.unwrap()
}

/// Bytes that do not repeat.
fn random(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }

    bytes.truncate(len);

    bytes
}

fn hex(bytes: &[u8]) -> String {
    let digest = Sha256::digest(bytes);
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Neither side holds it: 400 MB in a guest of 1 GiB, through a host that grows by a fraction of it.
#[tokio::test(flavor = "multi_thread")]
async fn a_large_file_is_transferred_in_bounded_memory() {
    const BYTES: usize = 400_000_000;
    let sandbox = sandbox(1024).await;
    let files = sandbox.files();
    let piece = random(1 << 20);
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
    let agent = run_ok(&sandbox, "cat /proc/1/status 2>/dev/null || echo hidden").await;
    assert_eq!(agent, "hidden\n", "the agent is not to be seen");
    let copied = hex(&std::fs::read(copy.path()).unwrap());
    assert_eq!(copied, digest);
    // Past it, the disk is full, and the message says of what it is a part.
    let error = files.write("more", random(150_000_000)).await.unwrap_err();
    assert_eq!(error.io_kind(), Some(Io::StorageFull), "{error}");
    assert!(
        error.to_string().contains("half of the guest's memory"),
        "{error}"
    );

    let unannounced = &random(200_000_000)[..];
    let error = files
        .upload("more", unannounced, WriteOptions::default())
        .await
        .unwrap_err();
    assert_eq!(error.io_kind(), Some(Io::StorageFull), "{error}");
    assert_eq!(run_ok(&sandbox, LEFT).await, "big\n");
    files.remove("big").await.unwrap();
    files.write("more", random(150_000_000)).await.unwrap();
}
