//! Shows the changes of a guest in a folder, and takes them over on request.

use std::io::Write;
use std::path::Path;

use anyhow::Context;
use fumehood_engine::SkippedFiles;

use super::apply::apply;
use super::changes::{Change, Comparison, Differences};
use super::host_folder::HostFolder;
use super::mount::Mount;
use super::names::quoted;
use super::patch::{PatchSource, write_patch};
use super::tree::{Tree, scan};
use crate::args::SyncBackArgs;
use crate::io::{confirm, eprint_message};

/// The number of paths that are printed one by one; the rest is counted.
const MAX_PRINTED: usize = 20;

/// What became of the changes in a folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SyncEnd {
    /// Everything was taken over, or nothing was to be taken over.
    Complete,
    /// Nothing was taken over, as the user has decided.
    Declined,
    /// Some changes were not taken over.
    Incomplete,
}

/// Writes the changes in `copy`, a private copy of the guest's folder, to `patch`. With `--sync-back`, takes them over
/// into the folder on this host, and updates `mount` to the common content of both sides. `skipped`: files that the copy lacks;
/// `is_terminal`: a terminal shows the patch.
///
/// # Errors
/// A folder cannot be read, the patch cannot be written, or there is no terminal for the question.
pub(crate) async fn offer(
    mount: &mut Mount,
    copy: &Path,
    skipped: &SkippedFiles,
    args: &SyncBackArgs,
    (patch, is_terminal): (&mut impl Write, bool),
) -> anyhow::Result<SyncEnd> {
    let shown = mount.local.display().to_string();
    let host = HostFolder::open(&mount.local).with_context(|| format!("cannot read {shown}"))?;
    let after = scan(copy)
        .context("the copy from the VM cannot be read")?
        .tree;
    let copy = HostFolder::open(copy)?;

    let comparison = Comparison {
        before: &mount.before,
        after: &after,
        skipped,
        host: &host,
        include_git: args.include_git,
    };
    let differences = comparison.differences();
    let differences = differences.with_context(|| format!("cannot read {shown}"))?;

    let source = PatchSource {
        host: &host,
        copy: &copy,
        is_terminal,
    };
    write_patch(&differences.changes, &source, patch)?;
    print_refusals(&differences, &shown);

    let end = if args.sync_back && !differences.changes.is_empty() {
        take_over(mount, &differences.changes, &copy, &host, args).await?
    } else {
        SyncEnd::Complete
    };
    record(&mut mount.before, &differences.equal, &[]);

    Ok(match end {
        SyncEnd::Complete if args.sync_back && !differences.refusals.is_empty() => {
            SyncEnd::Incomplete
        }
        end => end,
    })
}

/// Asks the user unless there is no need to, takes the changes over, and reports what could not be taken over.
async fn take_over(
    mount: &mut Mount,
    changes: &[Change],
    copy: &HostFolder,
    host: &HostFolder,
    args: &SyncBackArgs,
) -> anyhow::Result<SyncEnd> {
    let shown = mount.local.display();
    let count = changes.len();
    let noun = if count == 1 { "change" } else { "changes" };
    if !args.yes {
        let question = format!("take over {count} {noun} into {shown}?");
        if !confirm(&question).await? {
            eprint_message("nothing was taken over");
            return Ok(SyncEnd::Declined);
        }
    }

    let failures = apply(changes, copy, host);
    for failure in failures.iter().take(MAX_PRINTED) {
        let path = quoted("", &failure.path);
        eprint_message(&format!("not taken over: {path}: {}", failure.reason));
    }
    let failed: Vec<_> = failures.iter().map(|failure| &*failure.path).collect();
    record(&mut mount.before, changes, &failed);

    let taken = count - failed.len();
    eprint_message(&format!(
        "{taken} of {count} {noun} taken over into {shown}"
    ));
    Ok(match failures.is_empty() {
        true => SyncEnd::Complete,
        false => SyncEnd::Incomplete,
    })
}

/// Records that both sides have these changes, except those that failed.
fn record(before: &mut Tree, changes: &[Change], failed: &[&Path]) {
    for change in changes {
        if failed.contains(&&*change.path) {
            continue;
        }
        match &change.after {
            Some(entry) => before.insert(change.path.clone(), entry.clone()),
            None => before.remove(&change.path),
        };
    }
}

fn print_refusals(differences: &Differences, folder: &str) {
    let refusals = &differences.refusals;
    for refusal in refusals.iter().take(MAX_PRINTED) {
        let path = quoted("", &refusal.path);
        eprint_message(&format!("{folder}: left out: {path}: {}", refusal.reason));
    }

    let more = refusals.len().saturating_sub(MAX_PRINTED);
    if more > 0 {
        eprint_message(&format!("{folder}: {more} more changes are left out"));
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[tokio::test]
    async fn changes_are_taken_over_once_and_conflicts_stay() {
        let dir = tempfile::tempdir().unwrap();
        let (local, copy) = (dir.path().join("host"), dir.path().join("guest"));
        for root in [&local, &copy] {
            std::fs::create_dir(root).unwrap();
            std::fs::write(root.join("a"), "a\n").unwrap();
            std::fs::write(root.join("b"), "b\n").unwrap();
        }
        symlink("/etc", local.join("outside")).unwrap();
        let before = scan(&local).unwrap().tree;
        let remote = "/work".to_owned();
        let mut mount = Mount {
            local: local.clone(),
            remote,
            before,
        };
        let args = |sync_back| SyncBackArgs {
            sync_back,
            yes: sync_back,
            include_git: false,
        };
        std::fs::write(copy.join("a"), "guest\n").unwrap();
        std::fs::write(copy.join("b"), "guest\n").unwrap();
        std::fs::write(local.join("b"), "host\n").unwrap();

        // Without --sync-back the folder stays as it is.
        let mut offered = async |args: SyncBackArgs| {
            let mut patch = Vec::new();
            let skipped = SkippedFiles::default();
            let end = offer(&mut mount, &copy, &skipped, &args, (&mut patch, false)).await;
            (end.unwrap(), String::from_utf8(patch).unwrap())
        };
        let (end, patch) = offered(args(false)).await;
        assert_eq!(end, SyncEnd::Complete);
        assert!(
            patch.contains("+guest") && !patch.contains("b/b"),
            "{patch}"
        );
        assert_eq!(std::fs::read_to_string(local.join("a")).unwrap(), "a\n");

        let (end, again) = offered(args(true)).await;
        assert_eq!((end, again), (SyncEnd::Incomplete, patch));
        let read = |path| std::fs::read_to_string(local.join(path)).unwrap();
        assert_eq!((read("a"), read("b")), ("guest\n".into(), "host\n".into()));

        // A change that was taken over is no difference any more; the conflict still is one.
        let (end, patch) = offered(args(true)).await;
        assert_eq!((end, patch.as_str()), (SyncEnd::Incomplete, ""));
        std::fs::write(local.join("b"), "guest\n").unwrap();
        assert_eq!(offered(args(true)).await.0, SyncEnd::Complete);
    }
}
