//! Host folders of a run: copied in before it, and compared with the guest's after it.

use anyhow::{Context, bail};
use fumehood_engine::{Outcome, RunRequest};
use tempfile::TempDir;

use super::follow::RunEnd;
use crate::args::RunArgs;
use crate::exit_code::FAILURE;
use crate::folder_sync::{Mount, SyncEnd, offer};
use crate::io::{eprint_message, is_stderr_terminal};

/// The folders of `--mount`.
pub(super) struct MountedFolders {
    mounts: Vec<Mount>,
    /// Where the guest's folders are copied to, for `--sync-back`. Only this user can access it.
    copies: Option<TempDir>,
}

impl MountedFolders {
    /// Reads the folders.
    ///
    /// # Errors
    /// An argument is invalid, or a folder cannot be read.
    pub(super) fn open(args: &RunArgs) -> anyhow::Result<Self> {
        let sync = &args.sync;
        if sync.sync_back && args.mounts.mount.is_empty() {
            bail!("--sync-back needs a folder; mount one with --mount FOLDER:REMOTE");
        }
        if sync.sync_back && args.json {
            bail!("--sync-back prints a patch; it cannot be used with --json");
        }
        if sync.sync_back && !sync.yes && args.stdin {
            bail!("with --stdin, --sync-back cannot ask; use --yes, too");
        }

        let mounts = Mount::parse_all(&args.mounts.mount)?;
        let copies = match sync.sync_back {
            true => Some(TempDir::new().context("cannot create a temporary directory")?),
            false => None,
        };
        Ok(Self { mounts, copies })
    }

    /// Adds the copies to a request.
    pub(super) fn add_to_run(&self, mut request: RunRequest) -> RunRequest {
        for (index, mount) in self.mounts.iter().enumerate() {
            request = request.upload(mount.local.clone(), mount.remote.clone());
            if let Some(copies) = &self.copies {
                let copy = copies.path().join(index.to_string());
                request = request.download(mount.remote.clone(), copy);
            }
        }
        request
    }

    /// Prints what changed in the folders, and takes it over. Returns the exit code of the command, which had `code` before.
    ///
    /// # Errors
    /// A folder cannot be read, or there is no terminal to ask.
    pub(super) async fn offer(
        &mut self,
        end: &RunEnd,
        code: u8,
        args: &RunArgs,
    ) -> anyhow::Result<u8> {
        let (RunEnd::Finished { outcome, .. }, Some(copies)) = (end, &self.copies) else {
            return Ok(code);
        };

        let mut is_complete = true;
        // The downloads of the mounts are the last ones.
        let first = outcome.downloads.len().saturating_sub(self.mounts.len());
        for (index, mount) in self.mounts.iter_mut().enumerate() {
            let copy = copies.path().join(index.to_string());
            let Some(download) = downloaded(outcome, first + index) else {
                let local = mount.local.display();
                eprint_message(&format!("nothing was taken over into {local}"));
                is_complete = false;
                continue;
            };

            // Standard output has the output of the program.
            let patch = (&mut std::io::stderr(), is_stderr_terminal());
            let skipped = &download.skipped;
            let end = offer(mount, &copy, skipped, &args.sync, patch).await?;
            is_complete &= end != SyncEnd::Incomplete;
        }

        Ok(match code {
            0 if !is_complete => FAILURE,
            code => code,
        })
    }
}

/// Returns a download that succeeded.
fn downloaded(outcome: &Outcome, index: usize) -> Option<&fumehood_engine::Download> {
    let download = outcome.downloads.get(index)?;
    download.error.is_none().then_some(download)
}
