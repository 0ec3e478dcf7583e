//! The local server of this user: found at its socket, or started in the background. The Python SDK does the same, with
//! the same socket, lock, log and options, so that both use one server.

use std::ffi::OsString;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use bytes::Bytes;
use fumehood_engine::close_fds_except;
use fumehood_server::Store;
use hyper::StatusCode;
use rustix::fs::{FlockOperation, OFlags, flock};
use serde_json::Value;
use tokio::time::Instant;

use super::answers::read_json;
use super::client::{JSON, Method, ServerClient, recorded_socket};

/// Seconds without work after which a server that was started here exits.
const IDLE_TIMEOUT_S: u32 = 300;
/// Timeout for the start of a server. It starts no VM, but the machine may be busy.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// Timeout for the readiness check of a listening server.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);
/// Time until a server that is shutting down releases its state.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(30);
/// Pause before a server is started again while another one shuts down.
const RESTART_PAUSE: Duration = Duration::from_millis(250);
const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// Log message of a server that exits because another one uses its state.
const STATE_IN_USE: &str = "is in use by another server";
/// Size from which a log is rotated, in bytes; one old log is kept.
const MAX_LOG_BYTES: u64 = 1024 * 1024;
/// Maximum size of the end of a log in an error message, in bytes.
const LOG_TAIL_BYTES: u64 = 4096;

/// Returns a client of this user's server. Starts one if none runs, with additional environment variables.
///
/// # Errors
/// The socket belongs to another user, or the server does not become ready; the message has the end of its log.
pub(crate) async fn ensure_running(
    environment: &[(&str, OsString)],
) -> anyhow::Result<ServerClient> {
    let socket = fumehood_server::default_socket();
    if is_ready(&socket).await? {
        return Ok(ServerClient::new(socket));
    }
    if let Some(recorded) = ready_recorded_socket().await {
        return Ok(ServerClient::new(recorded));
    }

    let deadline = Instant::now() + START_TIMEOUT;
    let dir = socket.parent().unwrap_or(Path::new("/"));
    create_private_dir(dir)?;

    // The lock lets one process start the server while the others wait.
    let _lock = lock(&dir.join("starting.lock"), deadline).await?;
    if is_ready(&socket).await? {
        return Ok(ServerClient::new(socket));
    }
    let socket = start(socket, environment, deadline).await?;
    Ok(ServerClient::new(socket))
}

/// Returns whether a server of this user listens at a socket and is ready.
///
/// # Errors
/// The socket is not private to this user; or a server listens, but reports a problem or does not answer.
async fn is_ready(socket: &Path) -> anyhow::Result<bool> {
    match std::fs::symlink_metadata(socket) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
        metadata => check_private(socket, metadata?.uid(), None)?,
    }

    let client = ServerClient::new(socket.to_owned());
    let probe = client.send(Method::GET, "/readyz", Bytes::new(), JSON);
    let response = match tokio::time::timeout(PROBE_TIMEOUT, probe).await {
        Ok(Ok(response)) => response,
        // A killed server has left the socket, or a server is shutting down.
        Ok(Err(_)) => return Ok(false),
        Err(_) => bail!(
            "the server at {} did not answer the readiness check within {} s",
            socket.display(),
            PROBE_TIMEOUT.as_secs()
        ),
    };

    let status = response.status();
    if status == StatusCode::OK {
        return Ok(true);
    }
    let answer = read_json(response).await.unwrap_or(Value::Null);
    match answer["error"]["kind"].as_str() {
        Some("draining") => Ok(false),
        _ => bail!(
            "the server at {} is not ready: {}",
            socket.display(),
            answer["error"]["message"]
                .as_str()
                .unwrap_or(status.as_str())
        ),
    }
}

/// Another environment may have started the server elsewhere, for example with another XDG_RUNTIME_DIR.
async fn ready_recorded_socket() -> Option<PathBuf> {
    let socket = recorded_socket()?;
    // A server that cannot be used is replaced by one at the usual place.
    is_ready(&socket).await.unwrap_or(false).then_some(socket)
}

/// Creates the directory of the socket, or checks that it is private.
fn create_private_dir(dir: &Path) -> anyhow::Result<()> {
    if let Some(parent) = dir.parent() {
        std::fs::create_dir_all(parent)
            .with_context(|| format!("cannot create {}", parent.display()))?;
    }

    match DirBuilder::new().mode(0o700).create(dir) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            let metadata = std::fs::symlink_metadata(dir)?;
            let mode = metadata.is_dir().then_some(metadata.mode());
            check_private(dir, metadata.uid(), Some(mode.unwrap_or(0o777)))
        }
        created => created.with_context(|| format!("cannot create {}", dir.display())),
    }
}

fn check_private(path: &Path, owner: u32, mode: Option<u32>) -> anyhow::Result<()> {
    let shown = path.display();
    let user = rustix::process::geteuid().as_raw();
    if owner != user {
        bail!(
            "{shown} is not trusted: it belongs to user {owner}, not to {user}; remove it, or use --socket"
        );
    }
    if mode.is_some_and(|mode| mode & 0o077 != 0) {
        bail!("{shown} must be a directory that only this user can access; remove it");
    }
    Ok(())
}

async fn lock(path: &Path, deadline: Instant) -> anyhow::Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
        .open(path)
        .with_context(|| format!("cannot open {}", path.display()))?;

    while flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        if Instant::now() > deadline {
            bail!(
                "timed out waiting for another process to start the server; see {}",
                log_path().display()
            );
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
    Ok(file)
}

/// Returns the path of the log of servers that run in the background.
fn log_path() -> PathBuf {
    Store::default_path().with_file_name("server.log")
}

/// Starts a server, and returns its socket; or that of the server that uses the state.
async fn start(
    socket: PathBuf,
    environment: &[(&str, OsString)],
    deadline: Instant,
) -> anyhow::Result<PathBuf> {
    let log = log_path();
    if let Some(dir) = log.parent() {
        let mut builder = DirBuilder::new();
        builder.recursive(true).mode(0o700).create(dir)?;
    }
    if std::fs::metadata(&log).is_ok_and(|metadata| metadata.len() > MAX_LOG_BYTES) {
        std::fs::rename(&log, log.with_extension("log.1"))?;
    }

    let retry_deadline = deadline.min(Instant::now() + SHUTDOWN_TIMEOUT);
    loop {
        let (mut server, log_start) = spawn(&socket, environment, &log)?;
        let exit_code = wait_until_ready(&socket, &mut server, deadline).await;
        let tail = || log_tail(&log, log_start);
        let status = match exit_code {
            Ok(None) => return Ok(socket),
            Ok(Some(status)) => status,
            Err(error) => {
                let tail = tail();
                return Err(error.context(format!("the end of {}:\n{tail}", log.display())));
            }
        };

        // A server that is shutting down no longer listens, but uses its state until its last VM has ended.
        let tail = tail();
        let is_state_in_use = tail.contains(STATE_IN_USE);
        if is_state_in_use && let Some(recorded) = ready_recorded_socket().await {
            return Ok(recorded);
        }
        if !is_state_in_use || Instant::now() + RESTART_PAUSE > retry_deadline {
            bail!(
                "the server exited at startup ({status}); the end of {}:\n{tail}",
                log.display()
            );
        }
        tokio::time::sleep(RESTART_PAUSE).await;
    }
}

/// Starts the process. Returns it, and the offset of its lines in the log.
fn spawn(
    socket: &Path,
    environment: &[(&str, OsString)],
    log: &Path,
) -> anyhow::Result<(Child, u64)> {
    let output = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
        .open(log)
        .with_context(|| format!("cannot open {}", log.display()))?;
    let log_start = output.metadata()?.len();

    // What this process has inherited, such as a pipe, must not stay open in the server.
    close_fds_except(&[])?;
    let server = Command::new(std::env::current_exe()?)
        .args(["serve", "--background", "--no-tcp", "--socket"])
        .arg(socket)
        .args(["--exit-when-idle", &IDLE_TIMEOUT_S.to_string()])
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output)
        .spawn()
        .context("cannot start a server")?;
    Ok((server, log_start))
}

/// Waits until the server is ready, or returns how it exited.
///
/// # Errors
/// It reports a problem, or is not ready in time, and was killed.
async fn wait_until_ready(
    socket: &Path,
    server: &mut Child,
    deadline: Instant,
) -> anyhow::Result<Option<std::process::ExitStatus>> {
    loop {
        if let Some(status) = server.try_wait()? {
            return Ok(Some(status));
        }
        // A server that runs but cannot work would report the same again. It exits when it is idle.
        if is_ready(socket).await? {
            return Ok(None);
        }

        if Instant::now() > deadline {
            server.kill()?;
            server.wait()?;
            bail!(
                "the server was not ready within {} s and was killed",
                START_TIMEOUT.as_secs()
            );
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

/// Returns the end of a server's own lines in the log.
fn log_tail(log: &Path, start: u64) -> String {
    let read = || {
        let mut file = File::open(log)?;
        let len = file.metadata()?.len();
        file.seek(SeekFrom::Start(
            start.max(len.saturating_sub(LOG_TAIL_BYTES)),
        ))?;
        let mut tail = Vec::new();
        file.take(LOG_TAIL_BYTES).read_to_end(&mut tail)?;
        Ok::<_, std::io::Error>(String::from_utf8_lossy(&tail).trim().to_owned())
    };

    match read() {
        Ok(tail) if tail.is_empty() => "(empty)".to_owned(),
        Ok(tail) => tail,
        Err(error) => format!("(cannot be read: {error})"),
    }
}
