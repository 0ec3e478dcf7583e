//! Reports the end of a run: messages or JSON, and the exit code.

use fumehood_engine::Outcome;
use serde::Serialize;

use super::follow::RunEnd;
use super::json::{FailureReport, RunReport};
use crate::args::RunArgs;
use crate::exit_code::{BROKEN_PIPE, FAILURE, INTERRUPTED};
use crate::io::{Output, eprint_message, error_text, print_denials, print_line, print_skipped};
use crate::outcome::{Failure, exit_code, print_outcome};

/// Reports the end of a run. Returns the exit code.
///
/// # Errors
/// Standard output cannot be written.
pub(super) fn report(end: &RunEnd, output: &Output, args: &RunArgs) -> anyhow::Result<u8> {
    match end {
        RunEnd::Finished {
            outcome,
            was_interrupted,
        } => {
            let has_failed_downloads = report_outcome(outcome, output, args)?;

            // A failed download matters only if the program succeeded, or if the user interrupted the downloads.
            Ok(match exit_code(outcome) {
                _ if has_failed_downloads && *was_interrupted => INTERRUPTED,
                0 if has_failed_downloads => FAILURE,
                code => code,
            })
        }
        RunEnd::Failed(failure) => {
            // The message goes to standard error in any case: JSON is read by programs.
            if args.json {
                print_json(&FailureReport { error: failure })?;
            }
            eprint_message(&failure.message);
            Ok(FAILURE)
        }
        RunEnd::Abandoned => {
            if args.json {
                let failure = Failure {
                    kind: "interrupted".into(),
                    retry: "unknown".into(),
                    message: "interrupted; the VM was ended".into(),
                };
                print_json(&FailureReport { error: &failure })?;
            }
            Ok(INTERRUPTED)
        }
        RunEnd::BrokenPipe => Ok(BROKEN_PIPE),
    }
}

/// Reports invalid arguments as JSON.
///
/// # Errors
/// Standard output cannot be written.
pub(super) fn report_invalid(error: &anyhow::Error) -> anyhow::Result<()> {
    let failure = Failure {
        kind: "invalid".into(),
        retry: "never".into(),
        message: error_text(error),
    };
    print_json(&FailureReport { error: &failure })
}

/// Reports an outcome. Returns whether a download failed.
fn report_outcome(outcome: &Outcome, output: &Output, args: &RunArgs) -> anyhow::Result<bool> {
    if let Output::Captured(captured) = output {
        print_json(&RunReport::new(outcome, captured, args.display))?;
    } else if !args.quiet {
        print_outcome(outcome, args.effective_timeout(), args.memory);
        if let Some(network) = &outcome.network {
            print_denials(network);
        }
    }

    // Files that are missing afterwards are errors of the command, which --quiet does not silence.
    print_skipped("--upload", &outcome.skipped_uploads);
    let mut has_failed = false;
    for download in &outcome.downloads {
        let action = format!("--download {}", download.remote);
        print_skipped(&action, &download.skipped);
        if let Some(error) = &download.error {
            eprint_message(&format!("{action}: {error}"));
            has_failed = true;
        }
    }
    Ok(has_failed)
}

fn print_json(report: &impl Serialize) -> anyhow::Result<()> {
    Ok(print_line(&serde_json::to_value(report)?)?)
}
