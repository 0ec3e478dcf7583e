//! Full disks: a real one of eight megabytes, where the test may mount it.

use std::fs::{self, File};
use std::io::Write;
use std::path::PathBuf;

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use serde_json::json;

use super::database::{Store, StoreError};
use super::records::{self, Filter, Table};
use super::resume::ResumeRecord;
use crate::api::sandbox_responses::{SandboxResponse, SandboxState};
use crate::auth::api_keys::{self, KeyCache};
use crate::owner::Owner;

/// A small file system in memory that is unmounted on drop.
pub(crate) struct Disk(tempfile::TempDir);

impl Disk {
    /// Mounts the disk; `None` if this user may not mount one.
    pub(crate) fn new() -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let options = c"size=8m,mode=700";
        match mount("none", dir.path(), "tmpfs", MountFlags::empty(), options) {
            Ok(()) => Some(Self(dir)),
            Err(error) => {
                println!("skipped: a disk cannot be mounted here ({error})");
                None
            }
        }
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.0.path().join("server.sqlite")
    }

    /// Writes a file until no byte is left.
    pub(crate) fn fill(&self) {
        let mut file = File::create(self.0.path().join("filler")).unwrap();
        for size in [65536, 4096, 512, 1] {
            while file.write_all(&vec![1; size]).is_ok() {}
        }
    }

    pub(crate) fn free(&self) {
        fs::remove_file(self.0.path().join("filler")).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        unmount(self.0.path(), UnmountFlags::DETACH).unwrap();
    }
}

fn is_full<T>(result: &Result<T, StoreError>) -> bool {
    matches!(result, Err(StoreError::Full(_)))
}

#[test]
fn keys_are_revoked_on_a_full_disk_beside_a_server_and_without_one() {
    let Some(disk) = Disk::new() else { return };
    let server = Store::open_serving(&disk.state()).unwrap();
    let tokens: Vec<_> = (0..4)
        .map(|number| api_keys::create(&server, &format!("key-{number}"), false).unwrap())
        .collect();
    let is_valid = |store: &Store, token: &str| {
        let owner = KeyCache::default().find(store, token);
        owner.unwrap().is_some()
    };

    disk.fill();
    let insert = "INSERT INTO runs VALUES ('a', 'local', NULL, 'running', 1, '{}')";
    assert!(is_full(&server.write(|c| c.execute(insert, []))));

    // As `fumehood keys revoke` does it. What was released serves later revocations, and no other writes.
    for (number, token) in tokens.iter().enumerate().take(2) {
        let operator = Store::open(&disk.state()).unwrap();
        api_keys::revoke(&operator, &format!("key-{number}")).unwrap();
        assert!(!is_valid(&server, token));
        let written = server.write(|c| c.execute(insert, []));
        assert!(is_full(&written), "{written:?}");
        let error = written.unwrap_err().to_string();
        assert!(error.contains("free at least"), "{error}");
    }

    // Without a server, SQLite's log must be created first.
    disk.free();
    assert!(server.write(|c| c.execute(insert, [])).is_ok());
    drop(server);
    disk.fill();
    let operator = Store::open(&disk.state()).unwrap();
    api_keys::revoke(&operator, "key-2").unwrap();
    drop(operator);

    // A server starts, too.
    let server = Store::open_serving(&disk.state()).unwrap();
    records::mark_runs_lost(&server).unwrap();
    assert!(!is_valid(&server, &tokens[2]));
    assert!(is_valid(&server, &tokens[3]));
}

fn running_sandbox(id: &str) -> SandboxResponse {
    let sandbox = json!({
        "id": id, "name": null, "language": "python", "state": "running", "created_at": "2026-01-01T00:00:00.000Z",
        "ended_at": null, "ended": null, "ended_why": null, "memory_mib": 512, "idle_timeout_s": 1,
        "max_lifetime_s": 1, "source": "boot", "isolation": "full", "urls": [], "packages": [],
    });
    serde_json::from_value(sandbox).unwrap()
}

#[test]
fn an_end_that_a_full_disk_delays_is_reported_at_once_and_written_later() {
    let Some(disk) = Disk::new() else { return };
    let store = Store::open_serving(&disk.state()).unwrap();
    let owner = Owner::local();
    let mut sandbox = running_sandbox("sb_1");
    records::insert_sandbox(&store, &owner, &sandbox, &ResumeRecord::new_running()).unwrap();

    disk.fill();
    sandbox.state = SandboxState::Ended;
    records::update(&store, Table::Sandboxes, "sb_1", "ended", &sandbox);

    let state = |store: &Store| {
        let found = records::find::<SandboxResponse>(store, Table::Sandboxes, &owner, "sb_1");
        found.unwrap().unwrap().state
    };
    let filter = Filter {
        limit: 10,
        ..Filter::default()
    };
    let listed = records::list::<SandboxResponse>(&store, Table::Sandboxes, &owner, &filter);
    assert_eq!(listed.unwrap()[0].state, SandboxState::Ended);
    assert_eq!(state(&store), SandboxState::Ended);
    assert_eq!(
        state(&Store::open(&disk.state()).unwrap()),
        SandboxState::Running
    );

    // It is written by itself, before the server ends.
    disk.free();
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    let beside = Store::open(&disk.state()).unwrap();
    while state(&beside) != SandboxState::Ended {
        assert!(std::time::Instant::now() < deadline);
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
}
