use fumehood_protocol::{Entries, FileInfo, FileKind, ListFiles, OpId, Response, WireError};
use rustix::fs::{Dir, Mode, OFlags, openat};

use super::path::{file_info, open_path, path_error, reject_procfs};
use super::step::Step;
use crate::agent::Agent;
use crate::transport::Outbox;

/// A directory that is being listed.
#[derive(Debug)]
pub(crate) struct DirectoryListing {
    pub(crate) op_id: Option<OpId>,
    request: ListFiles,
    /// The open directories, from the first down to the current one.
    levels: Vec<OpenDirectory>,
    max_depth: usize,
    /// Entries sent so far.
    sent: u64,
}

#[derive(Debug)]
struct OpenDirectory {
    directory: Dir,
    /// Its path relative to the first directory, with a trailing `/`.
    prefix: String,
}

/// Maximum number of entries in one message.
const ENTRIES_PER_STEP: usize = 100;
/// Bytes of paths after which a message is full.
const BYTES_PER_STEP: usize = 16 * 1024;
/// Maximum depth of a listing.
const MAX_DEPTH: u32 = 64;

impl DirectoryListing {
    /// Starts to list a directory.
    ///
    /// # Errors
    /// `path_error`.
    pub(crate) fn start(request: ListFiles, agent: &Agent) -> Result<Self, WireError> {
        let error = path_error("list", &request.path, agent);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let opened = open_path(request.path.as_str(), flags, agent).map_err(&error)?;
        let directory = Dir::new(opened).map_err(&error)?;
        drop(error);

        let first = OpenDirectory {
            directory,
            prefix: String::new(),
        };

        let depth = request.depth.unwrap_or(1).clamp(1, MAX_DEPTH);

        Ok(Self {
            op_id: request.op_id,
            request,
            levels: vec![first],
            max_depth: usize::try_from(depth).unwrap_or(1),
            sent: 0,
        })
    }

    /// Sends one message of entries.
    pub(super) fn step(&mut self, outbox: &mut Outbox, agent: &Agent) -> Step {
        let mut entries = Vec::new();
        let mut bytes = 0;
        let mut truncated = false;

        while entries.len() < ENTRIES_PER_STEP && bytes < BYTES_PER_STEP && !self.levels.is_empty()
        {
            match agent.confinement.as_user(|| self.next()) {
                Ok(Some(_)) if self.sent >= agent.settings.limits.list_entries => {
                    truncated = true;
                    self.levels.clear();
                }
                Ok(Some(entry)) => {
                    bytes += entry.path.len() + entry.target.as_ref().map_or(0, String::len);
                    self.sent += 1;
                    entries.push(entry);
                }
                Ok(None) => {}
                Err(error) if self.levels.len() <= 1 => {
                    return Step::Failed(path_error("list", &self.request.path, agent)(error));
                }
                // A subdirectory was removed, or the user may not read it.
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

    /// Returns the next entry. `None`: a directory has ended, or the entry was removed meanwhile.
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
        let Ok(entry) = file_info(directory, name, shown) else {
            return Ok(None);
        };

        // Descend into a directory; what cannot be opened is listed without its contents.
        if entry.kind == FileKind::Directory && depth < self.max_depth {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let below = openat(directory, name, flags, Mode::empty());
            let below = below.and_then(reject_procfs).and_then(Dir::new);
            let prefix = format!("{}/", entry.path);
            self.levels.extend(
                below
                    .ok()
                    .map(|directory| OpenDirectory { directory, prefix }),
            );
        }

        Ok(Some(entry))
    }
}

/// Describes a file whose name is not valid UTF-8. The listing only shows that it exists.
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
