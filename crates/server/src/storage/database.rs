//! The SQLite file of the server's state, which one server uses at a time.

use std::ffi::OsString;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::Read;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};
use thiserror::Error;

use crate::sync::lock;

/// Why the state cannot be opened, read or written.
#[derive(Debug, Error)]
pub enum StoreError {
    /// Another server uses it.
    #[error("the state {path} is in use by another server{}; use that server, or stop it first", at(.socket.as_deref()))]
    InUse {
        /// The file.
        path: PathBuf,
        /// The Unix socket at which the server listens, if it has recorded one.
        socket: Option<PathBuf>,
    },
    /// A newer fumehood has written it.
    #[error(
        "the state {path} has version {found}, newer than version {SCHEMA_VERSION} of this fumehood; use a newer fumehood"
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: i64,
    },
    /// The file or its directory cannot be opened.
    #[error("cannot open the state {path}: {error}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The cause.
        error: std::io::Error,
    },
    /// SQLite has failed.
    #[error("cannot read or write the server's state: {0}")]
    Sql(#[from] rusqlite::Error),
}

fn at(socket: Option<&Path>) -> String {
    match socket {
        Some(socket) => format!(", which listens at {}", socket.display()),
        None => String::new(),
    }
}

/// The longest path in a lock file, in bytes: that of a Unix socket has at most 107.
const MAX_SOCKET_BYTES: u64 = 108;

/// The migrations. Each brings the state from its index in this list to the next; `user_version` counts those applied.
const MIGRATIONS: &[&str] = &["
    CREATE TABLE keys (
        id TEXT PRIMARY KEY, name TEXT NOT NULL, hash BLOB NOT NULL UNIQUE,
        created_ms INTEGER NOT NULL, revoked_ms INTEGER
    ) STRICT;
    CREATE UNIQUE INDEX keys_name ON keys (name) WHERE revoked_ms IS NULL;
    CREATE TABLE runs (
        id TEXT PRIMARY KEY, owner TEXT NOT NULL, sandbox TEXT, state TEXT NOT NULL,
        created_ms INTEGER NOT NULL, view TEXT NOT NULL
    ) STRICT;
    CREATE INDEX runs_owner ON runs (owner, id);
    CREATE INDEX runs_live ON runs (id) WHERE state NOT IN ('ended', 'failed');
    CREATE TABLE sandboxes (
        id TEXT PRIMARY KEY, owner TEXT NOT NULL, state TEXT NOT NULL,
        created_ms INTEGER NOT NULL, view TEXT NOT NULL
    ) STRICT;
    CREATE INDEX sandboxes_owner ON sandboxes (owner, id);
    CREATE INDEX sandboxes_live ON sandboxes (id) WHERE state != 'ended';
    CREATE TABLE claims (
        owner TEXT NOT NULL, key TEXT NOT NULL, hash BLOB NOT NULL, created_ms INTEGER NOT NULL,
        run TEXT, status INTEGER, type TEXT, body BLOB, PRIMARY KEY (owner, key)
    ) STRICT, WITHOUT ROWID;
"];

/// The schema version that this fumehood reads and writes.
const SCHEMA_VERSION: i64 = MIGRATIONS.len() as i64;

/// How long a writer waits for another one, such as `fumehood keys` beside a server.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// How often SQLite's log is written back to the database file. Only the checkpoint thread waits for the disk.
const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(5);

/// The state. Clones share its connections.
#[derive(Debug, Clone)]
pub struct Store(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    reader: Mutex<Connection>,
    writer: Mutex<Connection>,
    /// Dropping the sender ends the checkpoint thread.
    stop_checkpoints: Mutex<Option<mpsc::Sender<()>>>,
    checkpoint_thread: Mutex<Option<JoinHandle<()>>>,
    /// The lock file, held while a server uses the state.
    lock: Option<File>,
}

impl Store {
    /// Returns the default path: `$XDG_STATE_HOME/fumehood/server.sqlite`, with `~/.local/state` in place of an unset
    /// variable.
    #[must_use]
    pub fn default_path() -> PathBuf {
        let absolute = |name| {
            std::env::var_os(name)
                .map(PathBuf::from)
                .filter(|path| path.is_absolute())
        };

        let state = absolute("XDG_STATE_HOME")
            .or_else(|| Some(absolute("HOME")?.join(".local/state")))
            .unwrap_or_else(|| "/var/lib".into());

        state.join("fumehood/server.sqlite")
    }

    /// Opens the state to manage keys. A server may use it at the same time.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        create_private(path)?;
        Self::connect(path, None)
    }

    /// Opens the state for a server, exclusively.
    ///
    /// # Errors
    /// [`StoreError::InUse`] if another server uses it, and others.
    pub fn open_serving(path: &Path) -> Result<Self, StoreError> {
        create_private(path)?;
        let lock_file = open_private(&lock_path(path)).map_err(|error| io_error(path, error))?;
        let exclusive = rustix::fs::FlockOperation::NonBlockingLockExclusive;
        rustix::fs::flock(&lock_file, exclusive).map_err(|_| StoreError::InUse {
            path: path.to_path_buf(),
            socket: Self::recorded_socket(path),
        })?;

        // The socket of a server that was killed.
        lock_file
            .set_len(0)
            .map_err(|error| io_error(path, error))?;
        Self::connect(path, Some(lock_file))
    }

    /// Records the Unix socket of the server that uses this state, for clients that look for it elsewhere.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn record_socket(&self, socket: &Path) -> Result<(), StoreError> {
        let Some(lock_file) = &self.0.lock else {
            return Ok(());
        };

        let write = || {
            let socket = std::path::absolute(socket)?;
            lock_file.set_len(0)?;
            lock_file.write_all_at(socket.as_os_str().as_bytes(), 0)
        };
        write().map_err(|error| io_error(&self.0.path, error))
    }

    /// Returns the Unix socket that the server of a state has recorded. The server may have been killed since.
    #[must_use]
    pub fn recorded_socket(path: &Path) -> Option<PathBuf> {
        let mut bytes = Vec::new();
        let lock_file = File::open(lock_path(path)).ok()?;
        lock_file
            .take(MAX_SOCKET_BYTES)
            .read_to_end(&mut bytes)
            .ok()?;

        let socket = PathBuf::from(OsString::from_vec(bytes));
        socket.is_absolute().then_some(socket)
    }

    /// Opens a state in memory, which ends with the process.
    ///
    /// # Errors
    /// [`StoreError::Sql`].
    pub fn in_memory() -> Result<Self, StoreError> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        Self::connect(Path::new(&format!("file:/state-{number}?vfs=memdb")), None)
    }

    fn connect(path: &Path, lock_file: Option<File>) -> Result<Self, StoreError> {
        let mut writer = connect(path)?;
        migrate(&mut writer, path)?;
        // Without checkpoints a write takes some 50 µs, less than a thread takes to wake up; so it is done in place.
        writer.pragma_update(None, "wal_autocheckpoint", 0)?;

        let checkpointer = connect(path)?;
        let (stop_checkpoints, stopped) = mpsc::channel::<()>();
        let thread = std::thread::Builder::new().name("state".into());
        let thread = thread.spawn(move || {
            let timeout = Err(mpsc::RecvTimeoutError::Timeout);
            while stopped.recv_timeout(CHECKPOINT_INTERVAL) == timeout {
                checkpoint(&checkpointer);
            }
        });

        let thread = thread.map_err(|error| io_error(path, error))?;

        Ok(Self(Arc::new(Inner {
            path: path.to_path_buf(),
            reader: Mutex::new(connect(path)?),
            writer: Mutex::new(writer),
            stop_checkpoints: Mutex::new(Some(stop_checkpoints)),
            checkpoint_thread: Mutex::new(Some(thread)),
            lock: lock_file,
        })))
    }

    /// Returns the path of the file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// Reads in place: a read takes microseconds, and never waits for a writer.
    pub(crate) fn read<T>(
        &self,
        read: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, StoreError> {
        Ok(read(&lock(&self.0.reader))?)
    }

    /// Writes in place, in one transaction. Once this returns, the write survives the death of the process.
    pub(crate) fn write<T>(
        &self,
        write: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, StoreError> {
        let result = in_transaction(&lock(&self.0.writer), write);
        if let Err(error) = &result {
            tracing::error!(%error, "cannot write the server's state");
        }
        Ok(result?)
    }
}

fn in_transaction<T>(
    writer: &Connection,
    write: impl FnOnce(&Connection) -> rusqlite::Result<T>,
) -> rusqlite::Result<T> {
    let transaction = writer.unchecked_transaction()?;
    let result = write(&transaction)?;
    transaction.commit()?;
    Ok(result)
}

fn checkpoint(connection: &Connection) {
    let result = connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()));
    if let Err(error) = result {
        tracing::warn!(%error, "cannot write SQLite's log back to the state file");
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        drop(lock(&self.stop_checkpoints).take());
        let thread = lock(&self.checkpoint_thread).take();
        if let Some(thread) = thread {
            let _ = thread.join();
        }
        if let Some(lock_file) = &self.lock {
            let _ = lock_file.set_len(0);
        }
    }
}

fn io_error(path: &Path, error: std::io::Error) -> StoreError {
    StoreError::Io {
        path: path.to_path_buf(),
        error,
    }
}

/// Creates the file and its directory for this user only, before SQLite creates it for others too.
fn create_private(path: &Path) -> Result<(), StoreError> {
    let dir = path.parent().unwrap_or(Path::new("."));
    let created = DirBuilder::new().recursive(true).mode(0o700).create(dir);
    created
        .and_then(|()| open_private(path))
        .map_err(|error| io_error(path, error))?;
    Ok(())
}

/// Returns the path of the lock of a state. The lock contains the socket of the server that holds it.
fn lock_path(state: &Path) -> PathBuf {
    state.with_extension("lock")
}

fn open_private(path: &Path) -> std::io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    options.mode(0o600).open(path)
}

fn connect(path: &Path) -> Result<Connection, StoreError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX
        | OpenFlags::SQLITE_OPEN_URI;

    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.pragma_update(None, "journal_mode", "wal")?;
    // Writes survive the death of the process. The last ones before a loss of power may be lost.
    connection.pragma_update(None, "synchronous", "normal")?;
    connection.set_prepared_statement_cache_capacity(64);

    Ok(connection)
}

fn migrate(connection: &mut Connection, path: &Path) -> Result<(), StoreError> {
    let transaction =
        connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
    let found: i64 = transaction.pragma_query_value(None, "user_version", |row| row.get(0))?;
    if !(0..=SCHEMA_VERSION).contains(&found) {
        let path = path.to_path_buf();
        return Err(StoreError::Newer { path, found });
    }

    for migration in MIGRATIONS.iter().skip(usize::try_from(found).unwrap_or(0)) {
        transaction.execute_batch(migration)?;
    }

    transaction.pragma_update(None, "user_version", SCHEMA_VERSION)?;

    Ok(transaction.commit()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[tokio::test]
    async fn one_server_uses_it_and_no_other_user_reads_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/server.sqlite");
        let store = Store::open_serving(&path).unwrap();
        let error = Store::open_serving(&path).unwrap_err().to_string();
        assert!(error.contains("in use by another server; use"), "{error}");

        // A process that finds the lock in use reads the address from it.
        store.record_socket(Path::new("/a long path/x")).unwrap();
        store.record_socket(Path::new("/run/x.sock")).unwrap();
        let socket = Some(PathBuf::from("/run/x.sock"));
        assert_eq!(Store::recorded_socket(&path), socket);
        let error = Store::open_serving(&path).unwrap_err().to_string();
        assert!(error.contains("which listens at /run/x.sock"), "{error}");

        let beside = Store::open(&path).unwrap();
        let insert = "INSERT INTO runs VALUES ('a', 'local', NULL, 'running', 1, '{}')";
        store.write(|c| c.execute(insert, [])).unwrap();
        assert!(store.write(|c| c.execute(insert, [])).is_err());
        let count = |c: &Connection| c.query_row("SELECT count(*) FROM runs", [], |row| row.get(0));
        assert_eq!(beside.read::<i64>(count).unwrap(), 1);

        for file in ["deep", "deep/server.sqlite", "deep/server.sqlite-wal"] {
            let mode = dir
                .path()
                .join(file)
                .metadata()
                .unwrap()
                .permissions()
                .mode();

            assert_eq!(mode & 0o077, 0, "{file}");
        }

        drop(store);
        assert!(Store::open_serving(&path).is_ok());
    }

    #[tokio::test]
    async fn states_in_memory_are_separate() {
        let (one, other) = (Store::in_memory().unwrap(), Store::in_memory().unwrap());
        let insert = "INSERT INTO runs VALUES ('a', 'local', NULL, 'running', 1, '{}')";
        one.write(|c| c.execute(insert, [])).unwrap();
        let count = |c: &Connection| c.query_row("SELECT count(*) FROM runs", [], |row| row.get(0));
        assert_eq!(one.read::<i64>(count).unwrap(), 1);
        assert_eq!(other.read::<i64>(count).unwrap(), 0);
    }

    #[test]
    fn a_newer_state_is_not_changed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("server.sqlite");
        drop(Store::open(&path).unwrap());
        let connection = Connection::open(&path).unwrap();
        connection
            .pragma_update(None, "user_version", SCHEMA_VERSION + 1)
            .unwrap();

        let error = Store::open(&path).unwrap_err();
        assert!(error.to_string().contains("newer"), "{error}");
    }
}
