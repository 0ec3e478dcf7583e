//! The sockets that a server listens on, and how it stops.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use hyper_util::service::TowerToHyperService;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::middleware::Transport;
use super::routes::app;
use crate::auth::api_keys;
use crate::service::Service;
use crate::storage::database::StoreError;

/// How long the headers of a request may take, and a connection may be open without a request.
const HEADER_TIMEOUT: Duration = Duration::from_secs(60);

/// The largest headers of a request, in bytes.
const MAX_HEADER_BYTES: usize = 64 * 1024;

/// Concurrent connections of one transport. Each costs a task and its buffers, about 100 KiB.
const MAX_CONNECTIONS: usize = 1024;

/// How long the last responses may take after everything else has ended.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(5);

/// How long to wait after a connection could not be accepted, for example because of too many open files.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(50);

/// Why a server cannot listen.
#[derive(Debug, Error)]
pub enum ListenError {
    /// Other users can access the socket's directory.
    #[error(
        "{0} must be a directory that only this user owns and can access; remove it, or choose another path with --socket"
    )]
    Directory(PathBuf),
    /// Another server listens there.
    #[error("a server already listens on {0}; use it, or stop it first")]
    InUse(PathBuf),
    /// The path is not a socket.
    #[error("{0} exists but is not a socket; remove it, or choose another path with --socket")]
    NotASocket(PathBuf),
    /// Without a key, an address that others can reach would serve no caller.
    #[error(
        "refusing to listen on {0}, which is not a loopback address, without an API key; create one with `fumehood keys create NAME`"
    )]
    NoKey(SocketAddr),
    /// The system call failed.
    #[error("cannot listen on {at}: {error}")]
    Io {
        /// The path or address.
        at: String,
        /// The cause.
        error: io::Error,
    },
    /// The keys cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Returns the default path of the Unix socket: `$XDG_RUNTIME_DIR/fumehood/server.sock`, or
/// `/tmp/fumehood-UID/server.sock` without that variable.
#[must_use]
pub fn default_socket() -> PathBuf {
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    let dir = match runtime.filter(|dir| dir.is_absolute()) {
        Some(dir) => dir.join("fumehood"),
        None => format!("/tmp/fumehood-{}", rustix::process::geteuid().as_raw()).into(),
    };
    dir.join("server.sock")
}

/// The sockets of a server. Dropping it removes the Unix socket.
#[derive(Debug, Default)]
pub struct Listeners {
    unix: Option<(UnixListener, PathBuf)>,
    tcp: Option<TcpListener>,
}

impl Drop for Listeners {
    fn drop(&mut self) {
        if let Some((_, path)) = &self.unix {
            let _ = fs::remove_file(path);
        }
    }
}

impl Listeners {
    /// Listens on a Unix socket that only this user's processes can connect to. A socket that a killed server has left is
    /// replaced.
    ///
    /// # Errors
    /// [`ListenError`].
    pub fn bind_unix(mut self, path: &Path) -> Result<Self, ListenError> {
        let io_error = |error| ListenError::Io {
            at: path.display().to_string(),
            error,
        };

        let dir = path.parent().unwrap_or(Path::new("/"));
        create_private_dir(dir, path == default_socket())?;

        // Replace a socket only if no server listens on it.
        if let Ok(existing) = fs::symlink_metadata(path) {
            if !existing.file_type().is_socket() {
                return Err(ListenError::NotASocket(path.to_path_buf()));
            }
            if std::os::unix::net::UnixStream::connect(path).is_ok() {
                return Err(ListenError::InUse(path.to_path_buf()));
            }
        }

        // Bind under a temporary name: the socket appears once it listens and has its permissions.
        let temporary = path.with_extension(format!("{}", std::process::id()));
        let _ = fs::remove_file(&temporary);
        let listener = UnixListener::bind(&temporary).map_err(io_error)?;
        fs::set_permissions(&temporary, Permissions::from_mode(0o600))
            .and_then(|()| fs::rename(&temporary, path))
            .map_err(io_error)?;

        self.unix = Some((listener, path.to_path_buf()));

        Ok(self)
    }

    /// Listens on a TCP address for callers with API keys, and returns the address with the port that was assigned.
    ///
    /// # Errors
    /// [`ListenError::NoKey`] if it is not a loopback address and there is no key, and others.
    pub async fn bind_tcp(
        mut self,
        service: &Service,
        at: SocketAddr,
    ) -> Result<(Self, SocketAddr), ListenError> {
        if !at.ip().is_loopback() && !api_keys::any_active(service.store())? {
            return Err(ListenError::NoKey(at));
        }

        let io_error = |error| ListenError::Io {
            at: at.to_string(),
            error,
        };

        let listener = TcpListener::bind(at).await.map_err(io_error)?;
        let bound = listener.local_addr().map_err(io_error)?;
        self.tcp = Some(listener);

        Ok((self, bound))
    }

    /// Serves requests until `end` completes; then drains the service, and returns.
    pub async fn serve(self, service: &Service, end: impl Future<Output = ()>) {
        let unix_app = app(service, Transport::UnixSocket);
        let tcp_app = app(service, Transport::Tcp);
        let graceful = GracefulShutdown::new();

        // Each transport has its own limit: filling one with connections leaves the other available.
        let unix_slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let tcp_slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));

        let drained = async {
            end.await;
            tracing::info!("shutting down");
            service.drain().await;
        };
        tokio::pin!(drained);

        let unix = self.unix.as_ref().map(|(listener, _)| listener);

        loop {
            tokio::select! {
                accepted = accept_unix(unix, &unix_slots) => {
                    if let Some((stream, permit)) = accepted {
                        let watcher = graceful.watcher();
                        tokio::spawn(serve_connection(stream, unix_app.clone(), watcher, permit));
                    }
                }

                accepted = accept_tcp(self.tcp.as_ref(), &tcp_slots) => {
                    if let Some((stream, permit)) = accepted {
                        let watcher = graceful.watcher();
                        tokio::spawn(serve_connection(stream, tcp_app.clone(), watcher, permit));
                    }
                }

                () = &mut drained => break,
            }
        }

        // Close the listeners, then wait for the responses in flight.
        drop(self);
        let finished = tokio::time::timeout(SHUTDOWN_TIMEOUT, graceful.shutdown()).await;
        if finished.is_err() {
            tracing::warn!("some clients did not read their responses in time");
        }
    }
}

fn create_private_dir(dir: &Path, is_default: bool) -> Result<(), ListenError> {
    let created = DirBuilder::new().recursive(true).mode(0o700).create(dir);
    created.map_err(|error| ListenError::Io {
        at: dir.display().to_string(),
        error,
    })?;

    let user = rustix::process::geteuid().as_raw();
    let is_private = fs::symlink_metadata(dir)
        .is_ok_and(|found| found.is_dir() && found.uid() == user && found.mode() & 0o077 == 0);
    // A directory that the operator has chosen is not checked; the user of each connection is checked in any case.
    if is_default && !is_private {
        return Err(ListenError::Directory(dir.to_path_buf()));
    }

    Ok(())
}

/// Accepts a connection of this user; waits forever without a listener.
async fn accept_unix(
    listener: Option<&UnixListener>,
    slots: &Arc<Semaphore>,
) -> Option<(UnixStream, OwnedSemaphorePermit)> {
    let Some(listener) = listener else {
        return std::future::pending().await;
    };

    let permit = slots.clone().acquire_owned().await.ok()?;
    let stream = accepted(listener.accept().await).await?;
    let user = stream.peer_cred().ok()?.uid();
    if user != rustix::process::geteuid().as_raw() {
        tracing::warn!(user, "rejected a connection of another user");
        return None;
    }

    Some((stream, permit))
}

/// Accepts a connection; waits forever without a listener.
async fn accept_tcp(
    listener: Option<&TcpListener>,
    slots: &Arc<Semaphore>,
) -> Option<(TcpStream, OwnedSemaphorePermit)> {
    let Some(listener) = listener else {
        return std::future::pending().await;
    };

    let permit = slots.clone().acquire_owned().await.ok()?;
    let stream = accepted(listener.accept().await).await?;
    let _ = stream.set_nodelay(true);
    Some((stream, permit))
}

async fn accepted<S, A>(result: io::Result<(S, A)>) -> Option<S> {
    match result {
        Ok((stream, _)) => Some(stream),
        Err(error) => {
            tracing::warn!(%error, "cannot accept a connection");
            tokio::time::sleep(ACCEPT_RETRY_DELAY).await;
            None
        }
    }
}

async fn serve_connection(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    router: Router,
    watcher: Watcher,
    _permit: OwnedSemaphorePermit,
) {
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(MAX_HEADER_BYTES);

    let service = TowerToHyperService::new(router);
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    if let Err(error) = watcher.watch(connection).await {
        tracing::debug!(%error, "a connection failed");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_socket_is_private_and_a_stale_one_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/server.sock");
        let first = Listeners::default().bind_unix(&path).unwrap();
        assert_eq!(path.metadata().unwrap().mode() & 0o777, 0o600);
        let again = Listeners::default().bind_unix(&path);
        assert!(matches!(again, Err(ListenError::InUse(_))));

        drop(first);
        assert!(!path.exists());
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        drop(Listeners::default().bind_unix(&path).unwrap());
        fs::write(&path, "x").unwrap();
        assert!(matches!(
            Listeners::default().bind_unix(&path),
            Err(ListenError::NotASocket(_))
        ));
    }
}
