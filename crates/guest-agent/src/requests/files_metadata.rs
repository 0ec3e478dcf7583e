use fumehood_protocol::{Done, Entry, MakeDir, MoveFile, OpId, Response, Stat, WireError};
use rustix::fs::{Mode, OFlags, RenameFlags, fchmod, mkdirat, openat, renameat_with};
use rustix::io::Errno;

use crate::agent::Agent;
use crate::files::{file_info, locate, make_parents, open_path, path_error};
use crate::transport::Connection;

/// Describes the file at a path.
///
/// # Errors
/// `path_error`.
pub(super) fn stat(
    connection: &mut Connection,
    request: &Stat,
    agent: &Agent,
) -> Result<(), WireError> {
    request.path.check(&agent.settings.limits)?;
    let shown = request.path.as_str().to_string();

    let found = match locate(&request.path, agent) {
        Ok(location) => agent
            .confinement
            .as_user(|| file_info(&location.directory, &location.name, shown)),
        // The path ends with `/`, `.` or `..`.
        Err(Errno::INVAL) => {
            let flags = OFlags::PATH | OFlags::DIRECTORY;
            open_path(request.path.as_str(), flags, agent)
                .and_then(|directory| file_info(directory, ".", shown))
        }
        Err(error) => Err(error),
    };

    let entry = found.map_err(path_error("look at", &request.path, agent))?;
    let op_id = request.op_id;
    let entry = Response::Entry(Entry { op_id, entry });
    connection.outbox.answer(&entry);

    Ok(())
}

/// Makes a directory.
///
/// # Errors
/// `path_error`.
pub(super) fn make_dir(
    connection: &mut Connection,
    request: &MakeDir,
    agent: &Agent,
) -> Result<(), WireError> {
    request.check(&agent.settings.limits)?;
    let make = || -> rustix::io::Result<()> {
        if request.parents {
            make_parents(&request.path, agent)?;
        }

        let location = locate(&request.path, agent)?;
        let mode = Mode::from_raw_mode(request.mode.unwrap_or(0o755));

        agent.confinement.as_user(|| {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            match mkdirat(&location.directory, &location.name, mode) {
                // A requested mode applies as it is, without the umask.
                Ok(()) if request.mode.is_some() => {
                    let made = openat(&location.directory, &location.name, flags, Mode::empty())?;
                    fchmod(made, mode)
                }
                // With `parents`, a directory that exists already is no error.
                Err(Errno::EXIST) if request.parents => {
                    openat(&location.directory, &location.name, flags, Mode::empty()).map(|_| ())
                }
                other => other,
            }
        })
    };

    make().map_err(path_error("make the directory", &request.path, agent))?;
    done(connection, request.op_id);

    Ok(())
}

/// Moves or renames a file or a directory.
///
/// # Errors
/// `path_error`.
pub(super) fn move_file(
    connection: &mut Connection,
    request: &MoveFile,
    agent: &Agent,
) -> Result<(), WireError> {
    let limits = &agent.settings.limits;
    request.from.check(limits)?;
    request.to.check(limits)?;

    let from_error = path_error("move", &request.from, agent);
    let to_error = path_error("move to", &request.to, agent);
    let from = locate(&request.from, agent).map_err(&from_error)?;
    let to = locate(&request.to, agent).map_err(&to_error)?;

    let flags = if request.replace {
        RenameFlags::empty()
    } else {
        RenameFlags::NOREPLACE
    };

    // Without `replace`, the kernel refuses to overwrite a file.
    let rename = || renameat_with(&from.directory, &from.name, &to.directory, &to.name, flags);
    let moved = agent.confinement.as_user(rename);
    moved.map_err(|error| match error {
        Errno::NOENT => from_error(error),
        other => to_error(other),
    })?;
    done(connection, request.op_id);

    Ok(())
}

fn done(connection: &mut Connection, op_id: Option<OpId>) {
    connection.outbox.answer(&Response::Done(Done { op_id }));
}
