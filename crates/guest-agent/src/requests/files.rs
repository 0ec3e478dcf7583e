use fumehood_protocol::{
    Done, ListFiles, ReadFile, RemoveFile, Response, Watch, WireError, WriteFile,
};

use super::admission::check_input_op_id;
use super::client::Client;
use crate::agent::Agent;
use crate::files::{
    DirectoryListing, DirectoryWatch, FileDownload, FileUpload, Removed, Transfer, start_removal,
};

/// Starts to write a file.
///
/// # Errors
/// What [`WriteFile::check`] returns; `request_error` without an `op_id`; `path_error`.
pub(super) fn write(
    client: &mut Client,
    request: WriteFile,
    agent: &Agent,
) -> Result<(), WireError> {
    request.check(&agent.settings.limits)?;
    check_input_op_id(true, request.op_id)?;
    let upload = FileUpload::start(request, agent)?;
    client.transfers.push(Transfer::Write(upload));
    Ok(())
}

/// Starts to read a file.
///
/// # Errors
/// `path_error`.
pub(super) fn read(client: &mut Client, request: ReadFile, agent: &Agent) -> Result<(), WireError> {
    request.path.check(&agent.settings.limits)?;
    let encoding = client.connection.session.encoding;
    let download = FileDownload::start(request, encoding, agent)?;
    client.transfers.push(Transfer::Read(download));
    Ok(())
}

/// Starts to list a directory.
///
/// # Errors
/// `path_error`.
pub(super) fn list(
    client: &mut Client,
    request: ListFiles,
    agent: &Agent,
) -> Result<(), WireError> {
    request.path.check(&agent.settings.limits)?;
    let listing = DirectoryListing::start(request, agent)?;
    client.transfers.push(Transfer::List(listing));
    Ok(())
}

/// Removes a file or an empty directory, or starts to remove a directory with its contents.
///
/// # Errors
/// `path_error`.
pub(super) fn remove(
    client: &mut Client,
    request: RemoveFile,
    agent: &Agent,
) -> Result<(), WireError> {
    request.path.check(&agent.settings.limits)?;
    let op_id = request.op_id;

    match start_removal(request, agent)? {
        Removed::Now => {
            let done = Response::Done(Done { op_id });
            client.connection.outbox.answer(&done);
        }
        Removed::Later(removal) => client.transfers.push(Transfer::Remove(removal)),
    }

    Ok(())
}

/// Starts to watch a directory or a file.
///
/// # Errors
/// `path_error`.
pub(super) fn watch(client: &mut Client, request: Watch, agent: &Agent) -> Result<(), WireError> {
    request.path.check(&agent.settings.limits)?;
    let op_id = request.op_id;
    let watch = DirectoryWatch::start(request, agent)?;
    let watching = Response::Watching(fumehood_protocol::Watching { op_id });
    client.connection.outbox.answer(&watching);
    client.transfers.push(Transfer::Watch(watch));
    Ok(())
}
