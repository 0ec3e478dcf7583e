//! Where callers come in, and how the server ends.

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

use super::{Door, app};
use crate::auth::api_keys;
use crate::service::Service;
use crate::storage::database::StoreError;

/// How long a request's head may take, and a connection may be open without a request.
const HEAD: Duration = Duration::from_secs(60);

/// Bytes of a request's head at most.
const HEAD_BYTES: usize = 64 * 1024;

/// Connections at once by one door: each costs a task and its buffers, 100 KiB about.
const CONNECTIONS: usize = 1024;

/// How long answers may take to go out once all has ended.
const LAST_ANSWERS: Duration = Duration::from_secs(5);

/// How long to wait after a connection could not be taken: for want of descriptors, say.
const BREATH: Duration = Duration::from_millis(50);

/// Why a server does not listen.
#[derive(Debug, Error)]
pub enum ListenError {
    /// The socket's directory is somebody else's.
    #[error(
        "{0} is not this user's own directory, closed to others; remove it, or name another socket by --socket"
    )]
    Directory(PathBuf),
    /// A server is there.
    #[error("a server listens at {0} already; use that one, or end it first")]
    Taken(PathBuf),
    /// Something else is there.
    #[error("{0} is there and no socket; remove it, or name another socket by --socket")]
    NoSocket(PathBuf),
    /// Anybody could come in.
    #[error(
        "{0} is no loopback address, and there is no key: make one first, by `fumehood keys create NAME`"
    )]
    NoKey(SocketAddr),
    /// The system says no.
    #[error("nothing can listen at {at}: {error}")]
    Io {
        /// Where.
        at: String,
        /// Why.
        error: io::Error,
    },
    /// Keys cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Where the Unix socket is unless somebody says otherwise: `$XDG_RUNTIME_DIR/fumehood/server.sock`, else below
/// `/tmp/fumehood-UID`.
#[must_use]
pub fn default_socket() -> PathBuf {
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    let dir = match runtime.filter(|dir| dir.is_absolute()) {
        Some(dir) => dir.join("fumehood"),
        None => format!("/tmp/fumehood-{}", rustix::process::geteuid().as_raw()).into(),
    };
    dir.join("server.sock")
}

/// What a server listens at.
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
    /// Listens at a Unix socket, for processes of this user alone. One that a killed server has left is replaced.
    ///
    /// # Errors
    /// [`ListenError`].
    pub fn unix(mut self, path: &Path) -> Result<Self, ListenError> {
        let io = |error| ListenError::Io {
            at: path.display().to_string(),
            error,
        };
        let dir = path.parent().unwrap_or(Path::new("/"));
        own_directory(dir, path == default_socket())?;
        if let Ok(found) = fs::symlink_metadata(path) {
            if !found.file_type().is_socket() {
                return Err(ListenError::NoSocket(path.to_path_buf()));
            }
            if std::os::unix::net::UnixStream::connect(path).is_ok() {
                return Err(ListenError::Taken(path.to_path_buf()));
            }
        }
        // It appears when it listens, and only this user's processes ever see it.
        let made = path.with_extension(format!("{}", std::process::id()));
        let _ = fs::remove_file(&made);
        let listener = UnixListener::bind(&made).map_err(io)?;
        let put = fs::set_permissions(&made, Permissions::from_mode(0o600));
        put.and_then(|()| fs::rename(&made, path)).map_err(io)?;
        self.unix = Some((listener, path.to_path_buf()));
        Ok(self)
    }

    /// Listens at a TCP address, for whoever has a key; returns the address, with the port that was taken.
    ///
    /// # Errors
    /// [`ListenError::NoKey`]: it is not loopback's, and there is no key.
    pub async fn tcp(
        mut self,
        service: &Service,
        at: SocketAddr,
    ) -> Result<(Self, SocketAddr), ListenError> {
        if !at.ip().is_loopback() && !api_keys::any(service.store())? {
            return Err(ListenError::NoKey(at));
        }
        let io = |error| ListenError::Io {
            at: at.to_string(),
            error,
        };
        let listener = TcpListener::bind(at).await.map_err(io)?;
        let bound = listener.local_addr().map_err(io)?;
        self.tcp = Some(listener);
        Ok((self, bound))
    }

    /// Serves until `end` comes; then lets what goes on come to its end, and returns.
    pub async fn serve(self, service: &Service, end: impl Future<Output = ()>) {
        let local = app(service, Door::Local);
        let keyed = app(service, Door::Keyed);
        let graceful = GracefulShutdown::new();
        // Each door has its own: whoever fills the one with connections leaves the other open.
        let room = || Arc::new(Semaphore::new(CONNECTIONS));
        let (local_room, keyed_room) = (room(), room());
        let drained = async {
            end.await;
            tracing::info!("ending");
            service.drain().await;
        };
        tokio::pin!(drained);
        loop {
            tokio::select! {
                accepted = accept_unix(self.unix.as_ref().map(|(listener, _)| listener), &local_room) => {
                    if let Some((stream, place)) = accepted {
                        tokio::spawn(connection(stream, local.clone(), graceful.watcher(), place));
                    }
                }
                accepted = accept_tcp(self.tcp.as_ref(), &keyed_room) => {
                    if let Some((stream, place)) = accepted {
                        tokio::spawn(connection(stream, keyed.clone(), graceful.watcher(), place));
                    }
                }
                () = &mut drained => break,
            }
        }
        // Nobody comes in any more.
        drop(self);
        if tokio::time::timeout(LAST_ANSWERS, graceful.shutdown())
            .await
            .is_err()
        {
            tracing::warn!("some answers were not taken, and are given up");
        }
    }
}

fn own_directory(dir: &Path, is_default: bool) -> Result<(), ListenError> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(dir);
    made.map_err(|error| ListenError::Io {
        at: dir.display().to_string(),
        error,
    })?;
    let found = fs::symlink_metadata(dir);
    let user = rustix::process::geteuid().as_raw();
    let is_own =
        found.is_ok_and(|found| found.is_dir() && found.uid() == user && found.mode() & 0o077 == 0);
    // Elsewhere the one who named it knows; callers are checked one by one all the same.
    if is_default && !is_own {
        return Err(ListenError::Directory(dir.to_path_buf()));
    }
    Ok(())
}

async fn accept_unix(
    listener: Option<&UnixListener>,
    room: &Arc<Semaphore>,
) -> Option<(UnixStream, OwnedSemaphorePermit)> {
    let Some(listener) = listener else {
        return std::future::pending().await;
    };
    let place = room.clone().acquire_owned().await.ok()?;
    let stream = taken(listener.accept().await).await?;
    let user = stream.peer_cred().ok()?.uid();
    if user != rustix::process::geteuid().as_raw() {
        tracing::warn!(user, "another user's process was turned away");
        return None;
    }
    Some((stream, place))
}

async fn accept_tcp(
    listener: Option<&TcpListener>,
    room: &Arc<Semaphore>,
) -> Option<(TcpStream, OwnedSemaphorePermit)> {
    let Some(listener) = listener else {
        return std::future::pending().await;
    };
    let place = room.clone().acquire_owned().await.ok()?;
    let stream = taken(listener.accept().await).await?;
    let _ = stream.set_nodelay(true);
    Some((stream, place))
}

async fn taken<S, A>(accepted: io::Result<(S, A)>) -> Option<S> {
    match accepted {
        Ok((stream, _)) => Some(stream),
        Err(error) => {
            tracing::warn!(%error, "a connection was not taken");
            tokio::time::sleep(BREATH).await;
            None
        }
    }
}

async fn connection(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    router: Router,
    watcher: Watcher,
    _place: OwnedSemaphorePermit,
) {
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(HEAD_BYTES);
    let service = TowerToHyperService::new(router);
    let served = builder.serve_connection(TokioIo::new(stream), service);
    if let Err(error) = watcher.watch(served).await {
        tracing::debug!(%error, "a connection ended");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_socket_is_this_users_and_one_that_was_left_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/server.sock");
        let first = Listeners::default().unix(&path).unwrap();
        assert_eq!(path.metadata().unwrap().mode() & 0o777, 0o600);
        let again = Listeners::default().unix(&path);
        assert!(matches!(again, Err(ListenError::Taken(_))));

        drop(first);
        assert!(!path.exists());
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        drop(Listeners::default().unix(&path).unwrap());
        fs::write(&path, "x").unwrap();
        assert!(matches!(
            Listeners::default().unix(&path),
            Err(ListenError::NoSocket(_))
        ));
    }
}
