//! The sockets that a server listens on, and how it stops.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use hyper_util::service::TowerToHyperService;
use rustix::io::Errno;
use rustix::net::sockopt::set_socket_send_buffer_size;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio_io_timeout::TimeoutStream;

use super::connections::{Connection, Connections};
use super::extract::RequestBody;
use super::middleware::Transport;
use super::routes::app;
use crate::auth::api_keys;
use crate::service::Service;
use crate::storage::database::StoreError;

/// How long the headers of a request may take, and a connection may be open without a request.
const HEADER_TIMEOUT: Duration = Duration::from_secs(60);

/// How long a client may take nothing of a response that waits for it. With [`SEND_BUFFER_BYTES`], a client that reads less
/// than some 3 KiB/s is disconnected.
const WRITE_TIMEOUT: Duration = Duration::from_secs(60);

/// The size of the kernel's buffer for a response, in bytes; it doubles the figure. By default it would be some MiB.
const SEND_BUFFER_BYTES: usize = 256 * 1024;

/// The largest headers of a request, in bytes.
const MAX_HEADER_BYTES: usize = 64 * 1024;

/// Concurrent connections of one transport. Each costs a descriptor, a task and its buffers: about 100 KiB.
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
#[derive(Debug)]
pub struct Listeners {
    unix: Option<(UnixListener, PathBuf)>,
    tcp: Option<TcpListener>,
    /// Concurrent connections of each transport.
    max_connections: usize,
}

impl Default for Listeners {
    fn default() -> Self {
        Self {
            unix: None,
            tcp: None,
            max_connections: MAX_CONNECTIONS,
        }
    }
}

impl Drop for Listeners {
    fn drop(&mut self) {
        if let Some((_, path)) = &self.unix {
            let _ = fs::remove_file(path);
        }
    }
}

impl Listeners {
    /// Allows at most this many concurrent connections of each transport, and never more than 1,024.
    #[must_use]
    pub fn with_max_connections(mut self, max: usize) -> Self {
        self.max_connections = max.clamp(1, MAX_CONNECTIONS);
        self
    }

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
        let unix_connections = Connections::new(self.max_connections);
        let tcp_connections = Connections::new(self.max_connections);

        let drained = async {
            end.await;
            tracing::info!("shutting down");
            service.drain().await;
        };
        tokio::pin!(drained);

        let unix = self.unix.as_ref().map(|(listener, _)| listener);

        loop {
            tokio::select! {
                accepted = accept_unix(unix, &unix_connections) => {
                    if let Some((stream, connection)) = accepted {
                        let watcher = graceful.watcher();
                        tokio::spawn(serve_connection(stream, unix_app.clone(), watcher, connection));
                    }
                }

                accepted = accept_tcp(self.tcp.as_ref(), &tcp_connections) => {
                    if let Some((stream, connection)) = accepted {
                        let watcher = graceful.watcher();
                        tokio::spawn(serve_connection(stream, tcp_app.clone(), watcher, connection));
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
    connections: &Arc<Connections>,
) -> Option<(UnixStream, Connection)> {
    let Some(listener) = listener else {
        return std::future::pending().await;
    };

    let (stream, _) = accepted(listener.accept().await, connections).await?;
    let user = stream.peer_cred().ok()?.uid();
    if user != rustix::process::geteuid().as_raw() {
        tracing::warn!(user, "rejected a connection of another user");
        return None;
    }

    Some((stream, admitted(connections, None)?))
}

/// Accepts a connection; waits forever without a listener.
async fn accept_tcp(
    listener: Option<&TcpListener>,
    connections: &Arc<Connections>,
) -> Option<(TcpStream, Connection)> {
    let Some(listener) = listener else {
        return std::future::pending().await;
    };

    let (stream, peer) = accepted(listener.accept().await, connections).await?;
    let _ = stream.set_nodelay(true);
    let _ = set_socket_send_buffer_size(&stream, SEND_BUFFER_BYTES);

    Some((stream, admitted(connections, Some(peer.ip()))?))
}

async fn accepted<A>(result: io::Result<A>, connections: &Connections) -> Option<A> {
    match result {
        Ok(accepted) => Some(accepted),
        Err(error) => {
            tracing::warn!(%error, "cannot accept a connection");
            if matches!(
                error.raw_os_error().map(Errno::from_raw_os_error),
                Some(Errno::MFILE | Errno::NFILE)
            ) {
                connections.close_unused();
            }
            tokio::time::sleep(ACCEPT_RETRY_DELAY).await;
            None
        }
    }
}

fn admitted(connections: &Arc<Connections>, peer: Option<IpAddr>) -> Option<Connection> {
    let admitted = connections.admit(peer);
    if admitted.is_none() {
        tracing::warn!("closed a new connection: all connections are in use");
    }
    admitted
}

/// Serves the requests of a connection until its client closes it, takes nothing for too long, or must give way.
pub(super) async fn serve_connection(
    stream: impl AsyncRead + AsyncWrite + Send + 'static,
    router: Router,
    watcher: Watcher,
    connection: Connection,
) {
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(MAX_HEADER_BYTES);

    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(WRITE_TIMEOUT));

    let (app, handle) = (TowerToHyperService::new(router), connection.clone());
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(handle.clone());
        app.call(RequestBody::wrap(request))
    });

    let served = builder.serve_connection(TokioIo::new(Box::pin(stream)), service);
    tokio::select! {
        result = watcher.watch(served) => {
            if let Err(error) = result {
                tracing::debug!(%error, "a connection failed");
            }
        }
        () = connection.closed() => tracing::debug!("closed a connection for a new one"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_shortage_of_descriptors_closes_an_unused_connection() {
        let connections = Connections::new(8);
        let unused = connections.admit(None).unwrap();
        let shortage = io::Error::from_raw_os_error(Errno::MFILE.raw_os_error());

        assert!(accepted::<()>(Err(shortage), &connections).await.is_none());
        let closed = tokio::time::timeout(Duration::from_secs(1), unused.closed());
        closed.await.unwrap();
    }

    #[tokio::test]
    async fn an_address_has_a_share_of_the_connections() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Connections::new(8);

        let mut open = Vec::new();
        for _ in 0..3 {
            let accepted = accept_tcp(Some(&listener), &connections);
            let (client, accepted) = tokio::join!(TcpStream::connect(address), accepted);
            open.push((client.unwrap(), accepted.unwrap().1));
        }

        // A quarter of them: the third one closes the first.
        let closed = tokio::time::timeout(Duration::from_secs(10), open[0].1.closed());
        closed.await.unwrap();
    }

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
