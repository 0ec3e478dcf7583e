//! What outlives the server: in one SQLite file, which one server has at a time.

use std::fs::{DirBuilder, File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};
use thiserror::Error;

/// Why the state cannot be had.
#[derive(Debug, Error)]
pub enum StoreError {
    /// Another server has it.
    #[error("another server runs with the state {0}; use that one, or end it first")]
    Taken(PathBuf),
    /// A newer fumehood has written it.
    #[error(
        "the state {path} is of version {found}, newer than this fumehood's {VERSION}; use a newer fumehood"
    )]
    Newer {
        /// Where.
        path: PathBuf,
        /// Its version.
        found: i64,
    },
    /// The file or its directory.
    #[error("the state {path} cannot be opened: {error}")]
    Io {
        /// Where.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// SQLite says so.
    #[error("the server's state: {0}")]
    Sql(#[from] rusqlite::Error),
}

/// Each brings the state from its place in this list to the next; `user_version` is how many were made.
const STEPS: &[&str] = &["
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

/// The version that this fumehood reads and writes.
const VERSION: i64 = STEPS.len() as i64;

/// How long one writer waits for another: `fumehood keys` beside a server.
const BUSY: Duration = Duration::from_secs(10);

/// How often what was written is brought from SQLite's log into its file: it waits for the disk, and nobody else does.
const CHECKPOINT: Duration = Duration::from_secs(5);

/// The state. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Store(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    reader: Mutex<Connection>,
    writer: Mutex<Connection>,
    /// Dropped, it ends the thread.
    ends: Mutex<Option<mpsc::Sender<()>>>,
    checkpoints: Mutex<Option<JoinHandle<()>>>,
    /// Held as long as a server runs with it.
    _lock: Option<File>,
}

impl Store {
    /// Where it is unless somebody says otherwise: `$XDG_STATE_HOME/fumehood/server.sqlite`.
    #[must_use]
    pub fn default_path() -> PathBuf {
        let set = |name| {
            std::env::var_os(name)
                .map(PathBuf::from)
                .filter(|path| path.is_absolute())
        };
        let state = set("XDG_STATE_HOME")
            .or_else(|| Some(set("HOME")?.join(".local/state")))
            .unwrap_or_else(|| "/var/lib".into());
        state.join("fumehood/server.sqlite")
    }

    /// Opens it for keys alone, beside a server.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        prepare(path)?;
        Self::with(path, None)
    }

    /// Opens it for a server, which has it for itself.
    ///
    /// # Errors
    /// [`StoreError::Taken`], and others.
    pub fn open_serving(path: &Path) -> Result<Self, StoreError> {
        prepare(path)?;
        let lock = private(&path.with_extension("lock")).map_err(|error| io(path, error))?;
        let locked = rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive);
        locked.map_err(|_| StoreError::Taken(path.to_path_buf()))?;
        Self::with(path, Some(lock))
    }

    /// One that is gone with this process.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn in_memory() -> Result<Self, StoreError> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        Self::with(Path::new(&format!("file:/state-{number}?vfs=memdb")), None)
    }

    fn with(path: &Path, lock: Option<File>) -> Result<Self, StoreError> {
        let mut writer = connect(path)?;
        migrate(&mut writer, path)?;
        // A write is some 50 µs then, less than a thread takes to wake up.
        writer.pragma_update(None, "wal_autocheckpoint", 0)?;
        let checkpoints = connect(path)?;
        let (ends, ended) = mpsc::channel::<()>();
        let thread = std::thread::Builder::new().name("state".into());
        let thread = thread.spawn(move || {
            while ended.recv_timeout(CHECKPOINT) == Err(mpsc::RecvTimeoutError::Timeout) {
                checkpoint(&checkpoints);
            }
        });
        let thread = thread.map_err(|error| io(path, error))?;
        Ok(Self(Arc::new(Inner {
            path: path.to_path_buf(),
            reader: Mutex::new(connect(path)?),
            writer: Mutex::new(writer),
            ends: Mutex::new(Some(ends)),
            checkpoints: Mutex::new(Some(thread)),
            _lock: lock,
        })))
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// Reads, at once: each read takes microseconds, and never waits for a writer.
    pub(crate) fn read<T>(
        &self,
        read: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, StoreError> {
        let reader = self.0.reader.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(read(&reader)?)
    }

    /// Writes, at once: a killed process has written it when this returns.
    pub(crate) fn write<T>(
        &self,
        write: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, StoreError> {
        let writer = self.0.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let result = written(&writer, write);
        if let Err(error) = &result {
            tracing::error!(%error, "the server's state was not written");
        }
        Ok(result?)
    }
}

/// Writes all or nothing.
fn written<T>(
    writer: &Connection,
    write: impl FnOnce(&Connection) -> rusqlite::Result<T>,
) -> rusqlite::Result<T> {
    let transaction = writer.unchecked_transaction()?;
    let result = write(&transaction)?;
    transaction.commit()?;
    Ok(result)
}

fn checkpoint(connection: &Connection) {
    let done = connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()));
    if let Err(error) = done {
        tracing::warn!(%error, "the server's state was not brought into its file");
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.ends
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let thread = self
            .checkpoints
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(thread) = thread {
            let _ = thread.join();
        }
    }
}

fn io(path: &Path, error: std::io::Error) -> StoreError {
    StoreError::Io {
        path: path.to_path_buf(),
        error,
    }
}

/// Makes the file, for this user alone, before SQLite does.
fn prepare(path: &Path) -> Result<(), StoreError> {
    let dir = path.parent().unwrap_or(Path::new("."));
    let made = DirBuilder::new().recursive(true).mode(0o700).create(dir);
    made.and_then(|()| private(path))
        .map_err(|error| io(path, error))?;
    Ok(())
}

fn private(path: &Path) -> std::io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    options.mode(0o600).open(path)
}

fn connect(path: &Path) -> Result<Connection, StoreError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX
        | OpenFlags::SQLITE_OPEN_URI;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY)?;
    connection.pragma_update(None, "journal_mode", "wal")?;
    // What a killed server has written stays; what a machine that loses power has written last may not.
    connection.pragma_update(None, "synchronous", "normal")?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(connection)
}

fn migrate(connection: &mut Connection, path: &Path) -> Result<(), StoreError> {
    let transaction =
        connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
    let found: i64 = transaction.pragma_query_value(None, "user_version", |row| row.get(0))?;
    if !(0..=VERSION).contains(&found) {
        let path = path.to_path_buf();
        return Err(StoreError::Newer { path, found });
    }
    for step in STEPS.iter().skip(usize::try_from(found).unwrap_or(0)) {
        transaction.execute_batch(step)?;
    }
    transaction.pragma_update(None, "user_version", VERSION)?;
    Ok(transaction.commit()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[tokio::test]
    async fn one_server_has_it_and_nobody_else_reads_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/server.sqlite");
        let store = Store::open_serving(&path).unwrap();
        assert!(matches!(
            Store::open_serving(&path),
            Err(StoreError::Taken(_))
        ));
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
    async fn one_in_memory_is_nobody_elses() {
        let (one, other) = (Store::in_memory().unwrap(), Store::in_memory().unwrap());
        let insert = "INSERT INTO runs VALUES ('a', 'local', NULL, 'running', 1, '{}')";
        one.write(|c| c.execute(insert, [])).unwrap();
        let count = |c: &Connection| c.query_row("SELECT count(*) FROM runs", [], |row| row.get(0));
        assert_eq!(one.read::<i64>(count).unwrap(), 1);
        assert_eq!(other.read::<i64>(count).unwrap(), 0);
    }

    #[test]
    fn a_newer_state_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("server.sqlite");
        drop(Store::open(&path).unwrap());
        let connection = Connection::open(&path).unwrap();
        connection
            .pragma_update(None, "user_version", VERSION + 1)
            .unwrap();
        let error = Store::open(&path).unwrap_err();
        assert!(error.to_string().contains("newer"), "{error}");
    }
}
