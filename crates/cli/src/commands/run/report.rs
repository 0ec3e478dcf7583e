//! Reports the end of a run: messages or JSON, and the exit code.

use super::follow::RunEnd;
use super::json;
use crate::args::RunArgs;
use crate::exit_code::{BROKEN_PIPE, FAILURE, INTERRUPTED};
use crate::io::{Output, eprint_message, print_denials, print_line};
use crate::outcome::{RunResult, exit_code, print_outcome};
use crate::transfer::{Download, DownloadResult};

/// Reports the end of a run. Returns the exit code.
///
/// # Errors
/// Standard output cannot be written.
pub(super) fn report(end: RunEnd<'_>, output: &Output, args: &RunArgs) -> anyhow::Result<u8> {
    match end {
        RunEnd::Finished(result, downloads) => report_result(&result, &downloads, output, args),
        RunEnd::Failed(failure) => {
            if args.json {
                let json = json::failure(&failure.kind, &failure.retry, &failure.message);
                print_line(&json)?;
            }
            eprint_message(&failure.message);
            Ok(FAILURE)
        }
        RunEnd::Abandoned => {
            if args.json {
                let message = "interrupted; the VM was ended";
                print_line(&json::failure("interrupted", "unknown", message))?;
            }
            Ok(INTERRUPTED)
        }
        RunEnd::BrokenPipe => Ok(BROKEN_PIPE),
    }
}

fn report_result(
    result: &RunResult,
    downloads: &[(&Download, DownloadResult)],
    output: &Output,
    args: &RunArgs,
) -> anyhow::Result<u8> {
    if let Output::Captured(captured) = output {
        print_line(&json::outcome(result, captured, args.display, downloads))?;
    } else if !args.quiet {
        print_outcome(result, args.effective_timeout(), args.memory);
        if let Some(network) = &result.network {
            print_denials(network);
        }
    }

    let has_failed_downloads = print_failed_downloads(downloads);
    Ok(match exit_code(result) {
        0 if has_failed_downloads => FAILURE,
        code => code,
    })
}

/// Prints which downloads failed. Returns whether any has.
fn print_failed_downloads(downloads: &[(&Download, DownloadResult)]) -> bool {
    let mut has_failed = false;
    for (download, result) in downloads {
        if let Err(message) = result {
            eprint_message(&format!("--download {}: {message}", download.remote));
            has_failed = true;
        }
    }
    has_failed
}
