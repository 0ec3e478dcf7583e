//! One run of the suite: options, workers, verdicts.

use std::collections::VecDeque;
use std::sync::atomic::AtomicU32;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::clauses::clauses;
use crate::client::{Address, Fault, Link, Monitor, Transcript};
use crate::lab::{Agent, Clause, Kind, Lab, greet};
use crate::report::{ClauseReport, Report, Verdict};

/// Clauses that are tested at the same time, if the agent serves several connections. Each uses up to two.
const WORKERS: usize = 5;

/// What to test.
#[derive(Debug, Clone)]
pub struct Options {
    /// The agent's address.
    pub address: Address,
    /// The token, if the agent requires one.
    pub token: Option<String>,
    /// The version of the protocol: 0, or 1, which includes 0.
    pub version: u32,
    /// Only clauses whose identifier is one of these, or starts with one of these families (`FRAME`). All if empty.
    pub only: Vec<String>,
    /// Whether packages may be installed, which needs an index or a stand-in for the installers.
    pub packages: bool,
    /// How long each answer may take.
    pub deadline: Duration,
}

/// The agent could not be tested at all.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct SuiteError(String);

/// A clause, the result of its check, and the transcript.
type Checked = (&'static Clause, Result<(), Fault>, Vec<String>);

/// Tests an agent.
///
/// # Errors
/// Fails if the agent cannot be reached or does not answer the first request.
pub fn run(options: &Options) -> Result<Report, SuiteError> {
    let monitor = Arc::new(Monitor::default());
    let link = new_link(options, &monitor);
    let agent = greet(&link, options.token.as_deref(), options.version).map_err(|fault| {
        let (Fault::Failed(text) | Fault::NotOffered(text)) = fault;
        SuiteError(text)
    })?;
    let agent = Agent {
        packages: options.packages,
        ..agent
    };

    let all = clauses();
    let mut reports: Vec<ClauseReport> = check_all(options, &agent, &monitor, &all)
        .into_iter()
        .map(|(clause, result, transcript)| judge(clause, result, transcript, &monitor))
        .collect();
    reports.sort_by_key(|report| all.iter().position(|clause| clause.id == report.id));

    Ok(Report {
        version: options.version,
        agent: agent.version,
        clauses: reports,
    })
}

fn new_link(options: &Options, monitor: &Arc<Monitor>) -> Link {
    Link {
        address: options.address.clone(),
        deadline: options.deadline,
        monitor: Arc::clone(monitor),
        transcript: Transcript::default(),
        opened: Arc::new(AtomicU32::new(0)),
    }
}

/// Checks the chosen clauses: most of them at the same time, then those that need the agent for themselves.
fn check_all(
    options: &Options,
    agent: &Agent,
    monitor: &Arc<Monitor>,
    all: &[&'static Clause],
) -> Vec<Checked> {
    let run_tag = run_tag();
    let lab = |name: &str| Lab {
        link: new_link(options, monitor),
        agent,
        tag: format!("{run_tag}-{name}"),
    };
    let check = |clause: &'static Clause| {
        let lab = lab(&clause.id.to_lowercase());
        let result = match clause.kind {
            Kind::Active(check) | Kind::Alone(check) => check(&lab),
            Kind::Observed => Ok(()),
        };
        (clause, result, lab.link.transcript.lines())
    };

    let chosen = all
        .iter()
        .copied()
        .filter(|clause| is_chosen(clause, options));
    let (alone, together): (Vec<_>, Vec<_>) =
        chosen.partition(|clause| matches!(clause.kind, Kind::Alone(_)));
    let workers = if agent.serves_several { WORKERS } else { 1 };
    let mut checked = in_parallel(workers, together, &check);
    checked.extend(alone.into_iter().map(check));

    // The files of checks that could not remove them. An agent that fails here has failed before.
    let _ = lab("end").shell(&format!("rm -rf /tmp/{run_tag}-*"));
    checked
}

fn is_chosen(clause: &Clause, options: &Options) -> bool {
    let is_named = |name: &String| {
        let rest = clause.id.strip_prefix(name.as_str());
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
    };
    clause.version <= options.version
        && (options.only.is_empty() || options.only.iter().any(is_named))
}

/// A text that no other run has, for names and keys in an agent that outlives this run.
fn run_tag() -> String {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    format!("c{:x}", now.as_nanos() & 0xffff_ffff_ffff)
}

/// Applies a check to each clause, on this many threads.
fn in_parallel<T: Send>(
    workers: usize,
    clauses: Vec<&'static Clause>,
    check: &(impl Fn(&'static Clause) -> T + Sync),
) -> Vec<T> {
    let left = Mutex::new(VecDeque::from(clauses));
    let next = || {
        left.lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop_front()
    };

    std::thread::scope(|scope| {
        let work = || std::iter::from_fn(next).map(check).collect::<Vec<T>>();
        let workers: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        workers
            .into_iter()
            .flat_map(|worker| worker.join().unwrap_or_default())
            .collect()
    })
}

fn judge(
    clause: &Clause,
    result: Result<(), Fault>,
    transcript: Vec<String>,
    monitor: &Monitor,
) -> ClauseReport {
    let report = |verdict, reason, transcript| ClauseReport {
        id: clause.id,
        summary: clause.summary,
        verdict,
        reason,
        transcript,
    };

    match result {
        Err(Fault::Failed(reason)) => report(Verdict::Fail, Some(reason), transcript),
        Err(Fault::NotOffered(reason)) => report(Verdict::NotOffered, Some(reason), Vec::new()),
        Ok(()) => match monitor.violation(clause.id) {
            Some(violation) => report(Verdict::Fail, Some(violation.text), violation.transcript),
            None if matches!(clause.kind, Kind::Observed) && !monitor.was_observed(clause.id) => {
                let reason = "no response in this run was of this kind";
                report(Verdict::NotOffered, Some(reason.to_owned()), Vec::new())
            }
            None => report(Verdict::Pass, None, Vec::new()),
        },
    }
}
