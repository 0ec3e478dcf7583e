use fumehood_protocol::{Done, Entry, MakeDir, MoveFile, Response, Stat, WireError};
use rustix::fs::{Mode, OFlags, RenameFlags, fchmod, mkdirat, openat, renameat_with};
use rustix::io::Errno;

use crate::agent::Agent;
use crate::connection::Connection;

use super::{info, make_parents, open, place, refused};

/// Tells what is at a path.
///
/// # Errors
/// `path_error`.
pub(crate) fn stat(
    connection: &mut Connection,
    request: &Stat,
    agent: &Agent,
) -> Result<(), WireError> {
    request.path.check(&agent.settings.limits)?;
    let shown = request.path.as_str().to_string();
    let found = match place(&request.path, agent) {
        Ok(place) => agent
            .confinement
            .as_user(|| info(&place.directory, &place.name, shown)),
        // It ends with `/`, `.` or `..`.
        Err(Errno::INVAL) => open(
            request.path.as_str(),
            OFlags::PATH | OFlags::DIRECTORY,
            agent,
        )
        .and_then(|directory| info(directory, ".", shown)),
        Err(error) => Err(error),
    };
    let entry = found.map_err(refused("look at", &request.path, agent))?;
    let op_id = request.op_id;
    connection
        .outbox
        .answer(&Response::Entry(Entry { op_id, entry }));
    Ok(())
}

/// Makes a directory.
///
/// # Errors
/// `path_error`.
pub(crate) fn make_dir(
    connection: &mut Connection,
    request: &MakeDir,
    agent: &Agent,
) -> Result<(), WireError> {
    request.check(&agent.settings.limits)?;
    let make = || -> rustix::io::Result<()> {
        if request.parents {
            make_parents(&request.path, agent)?;
        }
        let place = place(&request.path, agent)?;
        let mode = Mode::from_raw_mode(request.mode.unwrap_or(0o755));
        agent.confinement.as_user(|| {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            match mkdirat(&place.directory, &place.name, mode) {
                // The mask of new files does not hold for what was asked for.
                Ok(()) if request.mode.is_some() => {
                    let made = openat(&place.directory, &place.name, flags, Mode::empty())?;
                    fchmod(made, mode)
                }
                Err(Errno::EXIST) if request.parents => {
                    openat(&place.directory, &place.name, flags, Mode::empty()).map(|_| ())
                }
                other => other,
            }
        })
    };
    let refuse = refused("make the directory", &request.path, agent);
    make().map_err(refuse)?;
    done(connection, request.op_id);
    Ok(())
}

/// Gives a file or directory another name.
///
/// # Errors
/// `path_error`.
pub(crate) fn move_file(
    connection: &mut Connection,
    request: &MoveFile,
    agent: &Agent,
) -> Result<(), WireError> {
    let limits = &agent.settings.limits;
    request.from.check(limits)?;
    request.to.check(limits)?;
    let from = place(&request.from, agent).map_err(refused("move", &request.from, agent))?;
    let refuse = refused("move to", &request.to, agent);
    let to = place(&request.to, agent).map_err(&refuse)?;
    let flags = if request.replace {
        RenameFlags::empty()
    } else {
        RenameFlags::NOREPLACE
    };
    let rename = || renameat_with(&from.directory, &from.name, &to.directory, &to.name, flags);
    let moved = agent.confinement.as_user(rename);
    moved.map_err(|error| match error {
        Errno::NOENT => refused("move", &request.from, agent)(error),
        other => refuse(other),
    })?;
    done(connection, request.op_id);
    Ok(())
}

fn done(connection: &mut Connection, op_id: Option<fumehood_protocol::OpId>) {
    connection.outbox.answer(&Response::Done(Done { op_id }));
}
