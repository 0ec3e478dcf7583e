use fumehood_protocol::{Entries, FileInfo, FileKind, ListFiles, OpId, Response, WireError};
use rustix::fs::{Dir, Mode, OFlags, openat};

use crate::agent::Agent;
use crate::connection::Connection;
use crate::outbox::Outbox;

use super::transfer::Step;
use super::{Transfer, info, not_of_processes, open, refused};

/// A directory that is being listed.
#[derive(Debug)]
pub(crate) struct Listing {
    pub(crate) op_id: Option<OpId>,
    request: ListFiles,
    /// The directories on the way to where it is.
    levels: Vec<Level>,
    depth: usize,
    told: u64,
}

#[derive(Debug)]
struct Level {
    directory: Dir,
    /// Its path below the first, with a `/` at its end.
    prefix: String,
}

/// Entries told at once, at most.
const AT_ONCE: usize = 100;
/// Bytes of their paths at once, about.
const BYTES_AT_ONCE: usize = 16 * 1024;
/// The deepest that a listing goes.
const DEEPEST: u32 = 64;

/// Begins to list a directory.
///
/// # Errors
/// `path_error`.
pub(crate) fn list(
    connection: &mut Connection,
    request: ListFiles,
    agent: &Agent,
) -> Result<(), WireError> {
    request.path.check(&agent.settings.limits)?;
    let refuse = refused("list", &request.path, agent);
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    let opened = open(request.path.as_str(), flags, agent).map_err(&refuse)?;
    let directory = Dir::new(opened).map_err(&refuse)?;
    drop(refuse);
    let first = Level {
        directory,
        prefix: String::new(),
    };
    let depth = request.depth.unwrap_or(1).clamp(1, DEEPEST);
    connection.transfers.push(Transfer::List(Listing {
        op_id: request.op_id,
        request,
        levels: vec![first],
        depth: usize::try_from(depth).unwrap_or(1),
        told: 0,
    }));
    Ok(())
}

impl Listing {
    /// Tells some entries.
    pub(super) fn step(&mut self, outbox: &mut Outbox, agent: &Agent) -> Step {
        let mut entries = Vec::new();
        let mut bytes = 0;
        let mut truncated = false;
        while entries.len() < AT_ONCE && bytes < BYTES_AT_ONCE && !self.levels.is_empty() {
            match agent.confinement.as_user(|| self.next()) {
                Ok(Some(_)) if self.told >= agent.settings.limits.list_entries => {
                    truncated = true;
                    self.levels.clear();
                }
                Ok(Some(entry)) => {
                    bytes += entry.path.len() + entry.target.as_ref().map_or(0, String::len);
                    self.told += 1;
                    entries.push(entry);
                }
                Ok(None) => {}
                Err(error) if self.levels.len() <= 1 => {
                    return Step::Failed(refused("list", &self.request.path, agent)(error));
                }
                // A directory below that went away or may not be read.
                Err(_) => {
                    self.levels.pop();
                }
            }
        }
        let last = self.levels.is_empty();
        if entries.is_empty() && !last {
            return Step::More;
        }
        outbox.answer(&Response::Entries(Entries {
            op_id: self.op_id,
            entries,
            last,
            truncated,
        }));
        if last { Step::Done } else { Step::More }
    }

    /// The next entry. `None`: a directory was at its end, or the entry has gone meanwhile.
    fn next(&mut self) -> rustix::io::Result<Option<FileInfo>> {
        let depth = self.levels.len();
        let Some(level) = self.levels.last_mut() else {
            return Ok(None);
        };
        let Some(entry) = level.directory.read().transpose()? else {
            self.levels.pop();
            return Ok(None);
        };
        let name = entry.file_name().to_bytes();
        if matches!(name, b"." | b"..") {
            return Ok(None);
        }
        let shown = [level.prefix.as_str(), &String::from_utf8_lossy(name)].concat();
        let Ok(name) = std::str::from_utf8(name) else {
            return Ok(Some(unnameable(shown)));
        };
        let directory = level.directory.fd()?;
        let Ok(entry) = info(directory, name, shown) else {
            return Ok(None);
        };
        if entry.kind == FileKind::Directory && depth < self.depth {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let below = openat(directory, name, flags, Mode::empty());
            let below = below.and_then(not_of_processes).and_then(Dir::new);
            let prefix = format!("{}/", entry.path);
            self.levels
                .extend(below.ok().map(|directory| Level { directory, prefix }));
        }
        Ok(Some(entry))
    }
}

/// A file whose name is no UTF-8: it is told that it is there.
fn unnameable(path: String) -> FileInfo {
    FileInfo {
        path,
        kind: FileKind::Other,
        size: 0,
        mode: 0,
        user: 0,
        modified_us: 0,
        target: None,
    }
}
