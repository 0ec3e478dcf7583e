//! The SQLite file of the server's state, which one server uses at a time.

use std::ffi::OsString;
use std::fs::{DirBuilder, File};
use std::io::Read;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{DirBuilderExt, FileExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags, ffi};
use thiserror::Error;

use super::deferred::{Change, Deferred};
use super::reserve::{Reserve, open_private};
use super::schema::{MIGRATIONS, SCHEMA_VERSION};
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
    /// No space is left on its disk.
    #[error(
        "no space is left for the server's state {0}; free at least 4 MiB on its disk, then repeat this"
    )]
    Full(PathBuf),
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

/// How long a writer waits for another one, such as `fumehood keys` beside a server.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// How often SQLite's log is written back to the database file. Only the checkpoint thread waits for the disk.
const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(5);

/// The size to which SQLite's log shrinks once it was written back, in bytes.
const MAX_IDLE_LOG_BYTES: i64 = 16 * 1024 * 1024;

/// The state. Clones share its connections.
#[derive(Debug, Clone)]
pub struct Store(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    reader: Mutex<Connection>,
    writer: Mutex<Connection>,
    /// Changes that wait until the disk has space again.
    deferred: Arc<Deferred>,
    /// A state in memory has none.
    reserve: Option<Reserve>,
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
        Self::connect_on_disk(path, None)
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
        Self::connect_on_disk(path, Some(lock_file))
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
        let path = format!("file:/state-{number}?vfs=memdb");
        Self::connect(Path::new(&path), None, None)
    }

    /// Connects to a state file, with the space kept in reserve if the disk is full.
    fn connect_on_disk(path: &Path, lock_file: Option<File>) -> Result<Self, StoreError> {
        let reserve = Reserve::of(path);
        let duplicate = || lock_file.as_ref().map(File::try_clone).transpose();
        let lock_file = duplicate().map_err(|error| io_error(path, error))?;

        match Self::connect(path, lock_file, Some(Reserve::of(path))) {
            Err(StoreError::Full(_)) if reserve.release() => {
                let lock_file = duplicate().map_err(|error| io_error(path, error))?;
                Self::connect(path, lock_file, Some(reserve))
            }
            result => result,
        }
    }

    fn connect(
        path: &Path,
        lock_file: Option<File>,
        reserve: Option<Reserve>,
    ) -> Result<Self, StoreError> {
        let sql_error = |error| sql_error(path, error);
        let mut writer = connect(path).map_err(sql_error)?;
        migrate(&mut writer, path)?;
        // Without checkpoints a write takes some 50 µs, less than a thread takes to wake up; so it is done in place.
        writer
            .pragma_update(None, "wal_autocheckpoint", 0)
            .map_err(sql_error)?;

        let deferred = Arc::<Deferred>::default();
        let (checkpointer, to_flush) = (connect(path).map_err(sql_error)?, deferred.clone());
        let (stop_checkpoints, stopped) = mpsc::channel::<()>();
        let thread = std::thread::Builder::new().name("state".into());
        let thread = thread.spawn(move || {
            let timeout = Err(mpsc::RecvTimeoutError::Timeout);
            while stopped.recv_timeout(CHECKPOINT_INTERVAL) == timeout {
                // A failure has been logged when the change was deferred; the next attempt follows.
                let _ = to_flush.flush(&checkpointer);
                checkpoint(&checkpointer);
            }
        });

        let thread = thread.map_err(|error| io_error(path, error))?;

        Ok(Self(Arc::new(Inner {
            path: path.to_path_buf(),
            reader: Mutex::new(connect(path).map_err(sql_error)?),
            writer: Mutex::new(writer),
            deferred,
            reserve,
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
        read(&lock(&self.0.reader)).map_err(|error| sql_error(&self.0.path, error))
    }

    /// Writes in place, in one transaction. Once this returns, the write survives the death of the process.
    ///
    /// # Errors
    /// [`StoreError::Full`] if the disk is so full that only [essential](Self::write_essential) writes are possible.
    pub(crate) fn write<T>(
        &self,
        write: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, StoreError> {
        let reserve = self.0.reserve.as_ref();
        if reserve.is_some_and(|reserve| !reserve.ensure_complete()) {
            tracing::error!("cannot write the server's state: its disk is full");
            return Err(StoreError::Full(self.0.path.clone()));
        }

        self.write_now(write)
    }

    /// Writes what must be written even on a full disk, with the space kept in reserve.
    pub(crate) fn write_essential<T>(
        &self,
        write: impl Fn(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, StoreError> {
        match (self.write_now(&write), &self.0.reserve) {
            (Err(StoreError::Full(_)), Some(reserve)) if reserve.release() => self.write_now(write),
            (result, _) => result,
        }
    }

    fn write_now<T>(
        &self,
        write: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, StoreError> {
        in_transaction(&lock(&self.0.writer), write)
            .inspect_err(|error| tracing::error!(%error, "cannot write the server's state"))
            .map_err(|error| sql_error(&self.0.path, error))
    }

    /// Changes a record. What cannot be written now is written later, and read as if it had been written.
    pub(super) fn change(&self, change: Change) {
        if self.write(|c| change.apply(c)).is_err() {
            self.0.deferred.add(change);
        }
    }

    /// Returns the JSON that a record will have once its change can be written.
    pub(super) fn deferred_json(&self, id: &str) -> Option<String> {
        self.0.deferred.json(id)
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
        // The last attempt: the next server reports everything that it finds active as lost.
        let _ = self.deferred.flush(&lock(&self.writer));
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

/// Returns whether a write has failed because the disk, or a quota of it, is full.
fn is_disk_full(error: &rusqlite::Error) -> bool {
    let codes = [ffi::SQLITE_IOERR_WRITE, ffi::SQLITE_IOERR_SHMSIZE];
    error.sqlite_error_code() == Some(ErrorCode::DiskFull)
        || error
            .sqlite_error()
            .is_some_and(|error| codes.contains(&error.extended_code))
}

fn sql_error(path: &Path, error: rusqlite::Error) -> StoreError {
    if is_disk_full(&error) {
        StoreError::Full(path.to_path_buf())
    } else {
        StoreError::Sql(error)
    }
}

/// Switches to a write-ahead log. SQLite does not wait for a process that does the same to a new file at this moment.
fn set_write_ahead_log(connection: &Connection) -> rusqlite::Result<()> {
    const INTERVAL: Duration = Duration::from_millis(5);

    let start = std::time::Instant::now();
    loop {
        match connection.pragma_update(None, "journal_mode", "wal") {
            Err(error)
                if error.sqlite_error_code() == Some(rusqlite::ErrorCode::DatabaseBusy)
                    && start.elapsed() < BUSY_TIMEOUT =>
            {
                std::thread::sleep(INTERVAL);
            }
            other => return other,
        }
    }
}

fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX
        | OpenFlags::SQLITE_OPEN_URI;

    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    set_write_ahead_log(&connection)?;
    // Writes survive the death of the process. The last ones before a loss of power may be lost.
    connection.pragma_update(None, "synchronous", "normal")?;
    connection.pragma_update(None, "journal_size_limit", MAX_IDLE_LOG_BYTES)?;
    connection.set_prepared_statement_cache_capacity(64);

    Ok(connection)
}

fn migrate(connection: &mut Connection, path: &Path) -> Result<(), StoreError> {
    let sql_error = |error| sql_error(path, error);
    let version = |c: &Connection| -> rusqlite::Result<i64> {
        c.pragma_query_value(None, "user_version", |row| row.get(0))
    };

    // A state of this version is only read, which a full disk allows.
    if version(connection).map_err(sql_error)? == SCHEMA_VERSION {
        return Ok(());
    }

    let immediate = rusqlite::TransactionBehavior::Immediate;
    let transaction = connection
        .transaction_with_behavior(immediate)
        .map_err(sql_error)?;
    let found = version(&transaction).map_err(sql_error)?;
    if !(0..=SCHEMA_VERSION).contains(&found) {
        let path = path.to_path_buf();
        return Err(StoreError::Newer { path, found });
    }

    let missing = MIGRATIONS.iter().skip(usize::try_from(found).unwrap_or(0));
    let apply = || {
        for migration in missing {
            transaction.execute_batch(migration)?;
        }
        transaction.pragma_update(None, "user_version", SCHEMA_VERSION)?;
        transaction.commit()
    };
    apply().map_err(sql_error)
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
