//! Passes on the events of a run until its end.

use std::time::Duration;

use anyhow::Context;
use fumehood_engine::{Event, Outcome};

use super::backend::RunBackend;
use crate::args::RunArgs;
use crate::io::{CancelGuard, Interrupts, Output, PackageProgress, print_exposed_port};
use crate::outcome::Failure;

/// Time for the task of an abandoned run to clean up. It only waits for other tasks of this process.
const CLEANUP_TIMEOUT: Duration = Duration::from_secs(1);

/// How a run ended for this command.
pub(super) enum RunEnd {
    Finished {
        outcome: Box<Outcome>,
        /// Whether the user has interrupted the run or its downloads.
        was_interrupted: bool,
    },
    Failed(Failure),
    /// Interrupted before the code was started, or twice, after which the VM was ended at once.
    Abandoned,
    /// The reader of the output closed it.
    BrokenPipe,
}

/// Follows a run to its end. Signals cancel it; see [`CancelGuard`].
///
/// # Errors
/// The output cannot be written.
pub(super) async fn follow(
    run: RunBackend,
    args: &RunArgs,
    output: &mut Output,
    interrupts: &mut Interrupts,
) -> anyhow::Result<RunEnd> {
    let control = run.local_control();
    let end = follow_to_end(run, args, output, interrupts).await;

    // The task of an abandoned run still removes its temporary files.
    if let (Ok(RunEnd::Abandoned), Some(control)) = (&end, control) {
        let _ = tokio::time::timeout(CLEANUP_TIMEOUT, control.ended()).await;
    }

    end
}

async fn follow_to_end(
    mut run: RunBackend,
    args: &RunArgs,
    output: &mut Output,
    interrupts: &mut Interrupts,
) -> anyhow::Result<RunEnd> {
    let mut guard = CancelGuard::new(interrupts, run.canceller());
    let progress = PackageProgress::new(args.quiet);
    let _stdin = args.forwards_stdin().then(|| run.forward_stdin());

    loop {
        // `None` from the guard: the user gave up the run. `None` from the run: all events have arrived.
        let event = match guard.wait(run.next()).await {
            None => return Ok(RunEnd::Abandoned),
            Some(None) => break,
            Some(Some(event)) => event,
        };

        // The progress of packages is shown until anything else happens.
        match &event {
            Event::Packages(step) => progress.show_step(*step),
            // The versions of the others are in the command line.
            Event::PackagesReady {
                packages,
                unpinned: true,
            } => progress.show_versions(packages),
            _ => progress.clear(),
        }
        if let Event::Exposed { url } = &event
            && !args.quiet
        {
            print_exposed_port(url);
        }

        if event == Event::ProgramEnded {
            guard.program_ended();
        }

        // A reader that does not read blocks this command, but not its signals.
        match guard.wait(output.write_event(&event)).await {
            None => return Ok(RunEnd::Abandoned),
            Some(Err(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => {
                return Ok(RunEnd::BrokenPipe);
            }
            Some(written) => written.context("cannot write the output")?,
        }
    }

    progress.clear();

    // Downloads and the end of the VM may still follow.
    Ok(match guard.wait(run.outcome()).await {
        None => RunEnd::Abandoned,
        Some(Ok(outcome)) => RunEnd::Finished {
            outcome: Box::new(outcome),
            was_interrupted: guard.was_interrupted(),
        },
        Some(Err(failure)) => RunEnd::Failed(failure),
    })
}
