use std::os::fd::{AsFd, OwnedFd};

use fumehood_protocol::{Done, OpId, RemoveFile, Response, WireError};
use rustix::fs::{AtFlags, Dir, Mode, OFlags, openat, unlinkat};
use rustix::io::Errno;

use super::path::{Location, locate, path_error};
use super::step::Step;
use crate::agent::Agent;
use crate::transport::Outbox;

/// A directory that is being removed with its contents.
#[derive(Debug)]
pub(crate) struct TreeRemoval {
    pub(crate) op_id: Option<OpId>,
    request: RemoveFile,
    /// The directory that contains it.
    parent: OwnedFd,
    /// The open directories, from the first down to the current one.
    levels: Vec<OpenDirectory>,
    /// How often a directory was found filled again after it had been emptied.
    refills: u32,
}

#[derive(Debug)]
struct OpenDirectory {
    directory: Dir,
    /// Its name in the directory above.
    name: String,
}

/// Names handled in one step.
const NAMES_PER_STEP: usize = 200;
/// Maximum depth of a removal: each level holds a descriptor. Programs can remove deeper trees.
const MAX_DEPTH: usize = 256;
/// Refills after which the removal fails: a program keeps filling the directory.
const MAX_REFILLS: u32 = 10;

/// The result of starting a removal.
pub(crate) enum Removed {
    /// The file or empty directory is gone.
    Now,
    /// The directory has contents, which are removed step by step.
    Later(TreeRemoval),
}

/// Removes a file or an empty directory, or starts to remove a directory with its contents.
///
/// # Errors
/// `path_error`.
pub(crate) fn start_removal(request: RemoveFile, agent: &Agent) -> Result<Removed, WireError> {
    let error = path_error("remove", &request.path, agent);
    let Location { directory, name } = locate(&request.path, agent).map_err(&error)?;
    let as_user = |act: &dyn Fn() -> rustix::io::Result<()>| agent.confinement.as_user(act);

    // Try the cheap ways first: a file, then an empty directory.
    let removed = match as_user(&|| unlinkat(&directory, &name, AtFlags::empty())) {
        Err(Errno::ISDIR) => as_user(&|| unlinkat(&directory, &name, AtFlags::REMOVEDIR)),
        other => other,
    };

    match removed {
        Ok(()) => return Ok(Removed::Now),
        Err(Errno::NOTEMPTY) if request.recursive => {}
        Err(errno) => return Err(error(errno)),
    }

    // The directory has contents, which are removed step by step.
    let level = agent
        .confinement
        .as_user(|| OpenDirectory::open(&directory, &name))
        .map_err(&error)?;
    drop(error);

    Ok(Removed::Later(TreeRemoval {
        op_id: request.op_id,
        request,
        parent: directory,
        levels: vec![level],
        refills: 0,
    }))
}

impl OpenDirectory {
    fn open(directory: impl AsFd, name: &str) -> rustix::io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let directory = Dir::new(openat(directory, name, flags, Mode::empty())?)?;
        let name = name.to_string();
        Ok(Self { directory, name })
    }
}

impl TreeRemoval {
    /// Removes some of the contents.
    pub(super) fn step(&mut self, outbox: &mut Outbox, agent: &Agent) -> Step {
        let result = agent.confinement.as_user(|| {
            for _ in 0..NAMES_PER_STEP {
                if self.levels.is_empty() {
                    break;
                }
                self.next()?;
            }

            Ok(())
        });

        match result {
            Err(error) => Step::Failed(path_error("remove", &self.request.path, agent)(error)),
            Ok(()) if self.levels.is_empty() => {
                let op_id = self.op_id;
                outbox.answer(&Response::Done(Done { op_id }));
                Step::Done
            }
            Ok(()) => Step::More,
        }
    }

    /// Removes the next name, or descends into it if it is a directory.
    fn next(&mut self) -> rustix::io::Result<()> {
        let depth = self.levels.len();
        let Some(level) = self.levels.last_mut() else {
            return Ok(());
        };

        let Some(entry) = level.directory.read().transpose()? else {
            return self.leave();
        };

        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            return Ok(());
        }

        let directory = level.directory.fd()?;
        match unlinkat(directory, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(Errno::ISDIR) => {
                if depth >= MAX_DEPTH {
                    return Err(Errno::NAMETOOLONG);
                }

                // Only programs can remove directories whose names are not valid UTF-8.
                let name = name.to_str().map_err(|_| Errno::ILSEQ)?;
                let below = OpenDirectory::open(directory, name)?;
                self.levels.push(below);
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Removes the current directory, which has been emptied, and returns to the one above.
    fn leave(&mut self) -> rustix::io::Result<()> {
        let Some(empty) = self.levels.pop() else {
            return Ok(());
        };

        let parent = match self.levels.last() {
            Some(level) => level.directory.fd()?,
            None => self.parent.as_fd(),
        };

        match unlinkat(parent, empty.name.as_str(), AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(Errno::NOTEMPTY) if self.refills < MAX_REFILLS => {
                self.refills += 1;
                let again = OpenDirectory::open(parent, &empty.name)?;
                self.levels.push(again);
                Ok(())
            }
            Err(error) => Err(error),
        }
    }
}
