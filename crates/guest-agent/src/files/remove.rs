use std::os::fd::OwnedFd;

use fumehood_protocol::{Done, OpId, RemoveFile, Response, WireError};
use rustix::fs::{AtFlags, Dir, Mode, OFlags, openat, unlinkat};
use rustix::io::Errno;

use crate::agent::Agent;
use crate::connection::Connection;
use crate::outbox::Outbox;

use super::transfer::Step;
use super::{Place, Transfer, place, refused};

/// A directory that is being removed with all that is in it.
#[derive(Debug)]
pub(crate) struct Removal {
    pub(crate) op_id: Option<OpId>,
    request: RemoveFile,
    /// Where it is.
    parent: OwnedFd,
    /// The directories on the way down, each with its name in the one before.
    levels: Vec<Level>,
    /// How often a directory was filled anew meanwhile.
    refilled: u32,
}

#[derive(Debug)]
struct Level {
    directory: Dir,
    name: String,
}

/// Names looked at in one step.
const AT_ONCE: usize = 200;
/// The deepest that it goes: each level is a descriptor. Programs can remove what is deeper.
const DEEPEST: usize = 256;
/// A program that fills what is being removed wins in the end.
const PATIENCE: u32 = 10;

/// Removes a file, or begins to remove a directory.
///
/// # Errors
/// `path_error`.
pub(crate) fn remove(
    connection: &mut Connection,
    request: RemoveFile,
    agent: &Agent,
) -> Result<(), WireError> {
    request.path.check(&agent.settings.limits)?;
    let refuse = refused("remove", &request.path, agent);
    let Place { directory, name } = place(&request.path, agent).map_err(&refuse)?;
    let as_user = |act: &dyn Fn() -> rustix::io::Result<()>| agent.confinement.as_user(act);
    let removed = as_user(&|| unlinkat(&directory, &name, AtFlags::empty()));
    let removed = match removed {
        Err(Errno::ISDIR) => as_user(&|| unlinkat(&directory, &name, AtFlags::REMOVEDIR)),
        other => other,
    };
    match removed {
        Err(Errno::NOTEMPTY) if request.recursive => {}
        Err(error) => return Err(refuse(error)),
        Ok(()) => {
            let op_id = request.op_id;
            connection.outbox.answer(&Response::Done(Done { op_id }));
            return Ok(());
        }
    }
    let level = agent.confinement.as_user(|| Level::open(&directory, &name));
    let level = level.map_err(&refuse)?;
    drop(refuse);
    connection.transfers.push(Transfer::Remove(Removal {
        op_id: request.op_id,
        request,
        parent: directory,
        levels: vec![level],
        refilled: 0,
    }));
    Ok(())
}

impl Level {
    fn open(directory: impl std::os::fd::AsFd, name: &str) -> rustix::io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let directory = Dir::new(openat(directory, name, flags, Mode::empty())?)?;
        let name = name.to_string();
        Ok(Self { directory, name })
    }
}

impl Removal {
    /// Removes some of it.
    pub(super) fn step(&mut self, outbox: &mut Outbox, agent: &Agent) -> Step {
        let worked = agent.confinement.as_user(|| {
            for _ in 0..AT_ONCE {
                if self.levels.is_empty() {
                    break;
                }
                self.next()?;
            }
            Ok(())
        });
        match worked {
            Err(error) => Step::Failed(refused("remove", &self.request.path, agent)(error)),
            Ok(()) if self.levels.is_empty() => {
                let op_id = self.op_id;
                outbox.answer(&Response::Done(Done { op_id }));
                Step::Done
            }
            Ok(()) => Step::More,
        }
    }

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
                if depth >= DEEPEST {
                    return Err(Errno::NAMETOOLONG);
                }
                // A name that is no UTF-8 is removed by programs alone.
                let name = name.to_str().map_err(|_| Errno::ILSEQ)?;
                let below = Level::open(directory, name)?;
                self.levels.push(below);
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// The last directory is empty.
    fn leave(&mut self) -> rustix::io::Result<()> {
        let Some(empty) = self.levels.pop() else {
            return Ok(());
        };
        let parent = match self.levels.last() {
            Some(level) => level.directory.fd()?,
            None => std::os::fd::AsFd::as_fd(&self.parent),
        };
        match unlinkat(parent, empty.name.as_str(), AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(Errno::NOTEMPTY) if self.refilled < PATIENCE => {
                self.refilled += 1;
                let again = Level::open(parent, &empty.name)?;
                self.levels.push(again);
                Ok(())
            }
            Err(error) => Err(error),
        }
    }
}
