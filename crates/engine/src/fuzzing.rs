//! Entry points for `fuzz/`: input from a guest to the engine. Each takes arbitrary bytes, and panics if an invariant is
//! violated.

use std::fs;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use fumehood_protocol::{Exec, Language, Limits, ListFiles, OpId, Request, Watch};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

use crate::agent::{
    Channel, FEATURES, GuestInit, Operation, OperationEvent, WINDOW_BYTES, new_refresh,
    resume_with_refresh, say_hello,
};
use crate::sandbox::unpack;

/// Deadline of a conversation. The agent always closes it, so that only a hang meets it.
const DEADLINE: Duration = Duration::from_secs(5);

/// What a guest writes for the word that it was sent in a request, such as the nonce of a greeting.
const ECHO: &[u8] = b"$ECHO";

/// Plays an agent that answers a greeting, a `refresh` or several operations with these bytes.
pub fn agent_channel(bytes: &[u8]) {
    let [kind, size, script @ ..] = bytes else {
        return;
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let Ok((ours, theirs)) = UnixStream::pair() else {
            return;
        };
        let is_greeting = kind % 4 < 2;
        let agent = play_agent(theirs, script.to_vec(), usize::from(*size) + 1, is_greeting);
        let agent = tokio::spawn(agent);
        match kind % 4 {
            0 => greet(ours).await,
            1 => refresh(ours).await,
            _ => operate(ours).await,
        }
        agent.abort();
    });
}

/// Sends a script in pieces. In a greeting, [`ECHO`] stands for the random word of the request.
async fn play_agent(socket: UnixStream, mut script: Vec<u8>, size: usize, is_greeting: bool) {
    let (reader, mut writer) = socket.into_split();
    let mut lines = BufReader::new(reader).lines();
    if is_greeting {
        while let Ok(Some(line)) = lines.next_line().await {
            if let Some(word) = random_word(&line) {
                script = replace(&script, word.as_bytes());
                break;
            }
        }
    }
    for piece in script.chunks(size) {
        if writer.write_all(piece).await.is_err() {
            return;
        }
        tokio::task::yield_now().await;
    }
    let _ = writer.shutdown().await;
    while let Ok(Some(_)) = lines.next_line().await {}
}

fn random_word(line: &str) -> Option<String> {
    let request: serde_json::Value = serde_json::from_str(line).ok()?;
    let word = request.get("nonce").or_else(|| request.get("op_id"))?;
    Some(
        word.as_str()
            .map_or_else(|| word.to_string(), str::to_owned),
    )
}

fn replace(script: &[u8], word: &[u8]) -> Vec<u8> {
    let mut replaced = Vec::with_capacity(script.len());
    let mut rest = script;
    while let Some((&first, after)) = rest.split_first() {
        if let Some(after) = rest.strip_prefix(ECHO) {
            replaced.extend_from_slice(word);
            rest = after;
        } else {
            replaced.push(first);
            rest = after;
        }
    }
    replaced
}

async fn greet(mut socket: UnixStream) {
    let _ = say_hello(&mut socket, 1, &FEATURES, None, DEADLINE).await;
}

async fn refresh(mut socket: UnixStream) {
    let refresh = new_refresh(&Limits::default(), &GuestInit::NONE).expect("a request");
    let _ = resume_with_refresh(&mut socket, &refresh, DEADLINE).await;
}

/// Runs three operations at once, and checks the events of each.
async fn operate(socket: UnixStream) {
    let channel = Channel::new(socket);
    let exec = channel.start_operation(|id, credit| {
        let mut exec = Exec::new(Language::Shell, "");
        (exec.op_id, exec.credit) = (Some(id), Some(credit));
        Request::Exec(exec)
    });
    let list = channel.start_operation(|id, _| list_request(id));
    let watch = channel.start_operation(|id, _| watch_request(id));
    tokio::join!(follow(exec), follow(list), follow(watch));
    assert!(
        tokio::time::timeout(DEADLINE, channel.closed())
            .await
            .is_ok()
    );
}

fn list_request(id: OpId) -> Request {
    let mut request: ListFiles = serde_json::from_str(r#"{"path":"/"}"#).expect("a request");
    request.op_id = Some(id);
    Request::ListFiles(request)
}

fn watch_request(id: OpId) -> Request {
    let mut request: Watch = serde_json::from_str(r#"{"path":"/"}"#).expect("a request");
    request.op_id = Some(id);
    Request::Watch(request)
}

async fn follow(mut operation: Operation) {
    let mut taken = 0;
    loop {
        let next = tokio::time::timeout(DEADLINE, operation.next()).await;
        let event = next.expect("the end of the connection ends every operation");
        match event {
            Ok(OperationEvent::Output(_, bytes)) => {
                taken += bytes.len() as u64;
                assert!(!bytes.is_empty());
                assert!(taken <= WINDOW_BYTES, "more output than credit");
            }
            Ok(
                OperationEvent::Item(..)
                | OperationEvent::Started(_)
                | OperationEvent::Queued
                | OperationEvent::Attached(_),
            ) => {}
            Ok(_) | Err(_) => return,
        }
    }
}

/// Unpacks a tar stream from a guest. Its checksums are made right, and nothing may be written outside of the target.
pub fn directory(bytes: &[u8]) {
    let outside = tempfile::tempdir_in("/dev/shm").expect("a directory");
    let kept = outside.path().join("kept");
    fs::write(&kept, "kept").expect("a file");

    let target = outside.path().join("target");
    fs::create_dir(&target).expect("a directory");
    std::os::unix::fs::symlink("..", target.join("up")).expect("a link");
    std::os::unix::fs::symlink("../kept", target.join("kept")).expect("a link");
    let (to, from) = tokio::sync::mpsc::channel(1);
    let _ = to.try_send(Bytes::from(with_checksums(bytes)));
    drop(to);
    let _ = unpack(&target, from);

    let names = fs::read_dir(outside.path()).expect("the directory").count();
    assert_eq!(names, 2, "something was written outside of the target");
    assert_eq!(fs::read(&kept).expect("the file"), b"kept");
    assert_no_special_files(&target);
}

/// Writes the right checksum into each header of a tar stream.
fn with_checksums(bytes: &[u8]) -> Vec<u8> {
    const BLOCK: usize = 512;
    let mut stream = bytes.to_vec();
    let mut start = 0_usize;
    while let Some(block) = stream.get_mut(start..start.saturating_add(BLOCK)) {
        let mut header = tar::Header::new_old();
        header.as_mut_bytes().copy_from_slice(block);
        header.set_cksum();
        block.copy_from_slice(header.as_bytes());

        let size = header.entry_size().unwrap_or(0);
        let blocks = usize::try_from(size).unwrap_or(usize::MAX).div_ceil(BLOCK);
        start = start
            .saturating_add(BLOCK)
            .saturating_add(blocks.saturating_mul(BLOCK));
    }
    stream
}

/// Checks that a tree contains only files, directories and links.
fn assert_no_special_files(directory: &Path) {
    let Ok(entries) = fs::read_dir(directory) else {
        return;
    };
    for entry in entries.flatten() {
        let kind = entry.file_type().expect("the kind of a file");
        assert!(kind.is_file() || kind.is_dir() || kind.is_symlink());
        if kind.is_dir() {
            assert_no_special_files(&entry.path());
        }
    }
}
