//! The progress of a build.

use std::time::{Duration, Instant};

use crate::Error;

/// One step of a build.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// The step's number, counted from one.
    pub index: usize,
    /// The total number of steps.
    pub total: usize,
    /// A title of a few words.
    pub title: &'static str,
    /// The typical duration on two processors with empty caches.
    pub usual: Duration,
}

/// How a step ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StepEnd {
    /// The step did its work.
    Done,
    /// An earlier build had cached the result.
    Cached,
}

/// Receives the progress of a build. All methods but the first two have an empty default.
pub trait Progress {
    /// A step started.
    fn started(&mut self, step: &Step);
    /// A step succeeded after `took`.
    fn done(&mut self, step: &Step, end: StepEnd, took: Duration);
    /// A step made progress. `line` is the latest output line; `fraction` is the completed share from 0 to 1,
    /// if known.
    fn advanced(&mut self, step: &Step, fraction: Option<f64>, line: &str) {
        let _ = (step, fraction, line);
    }
    /// Another build holds this store's lock. This build continues when the other ends.
    fn waiting(&mut self) {}
}

/// Ignores all progress.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoProgress;

impl Progress for NoProgress {
    fn started(&mut self, _: &Step) {}
    fn done(&mut self, _: &Step, _: StepEnd, _: Duration) {}
}

/// The steps' titles and typical durations in seconds, measured on two processors.
const STEPS: [(&str, u64); 6] = [
    ("kernel", 230),
    ("Debian packages", 35),
    ("uv", 3),
    ("bun", 8),
    ("root file system", 8),
    ("checks and manifest", 4),
];

/// Numbers the steps of one build.
pub(crate) struct Steps<'a> {
    progress: &'a mut dyn Progress,
    next: usize,
}

impl<'a> Steps<'a> {
    pub(crate) fn new(progress: &'a mut dyn Progress) -> Self {
        Self { progress, next: 0 }
    }

    /// Runs the next step.
    pub(crate) fn run<T>(
        &mut self,
        work: impl FnOnce(&mut StepProgress<'_>) -> Result<(T, StepEnd), Error>,
    ) -> Result<T, Error> {
        let (title, seconds) = STEPS[self.next];
        self.next += 1;

        let step = Step {
            index: self.next,
            total: STEPS.len(),
            title,
            usual: Duration::from_secs(seconds),
        };
        let start = Instant::now();
        self.progress.started(&step);

        let mut progress = StepProgress {
            progress: &mut *self.progress,
            step,
        };

        let (value, end) = work(&mut progress)?;
        self.progress.done(&step, end, start.elapsed());

        Ok(value)
    }
}

/// Reports the progress of the current step.
pub(crate) struct StepProgress<'a> {
    progress: &'a mut dyn Progress,
    step: Step,
}

impl StepProgress<'_> {
    /// Reports a line of output.
    pub(crate) fn line(&mut self, line: &str) {
        self.progress.advanced(&self.step, None, line);
    }

    /// Reports a line of output with the completed fraction of the step.
    pub(crate) fn fraction(&mut self, fraction: f64, line: &str) {
        self.progress
            .advanced(&self.step, Some(fraction.clamp(0.0, 1.0)), line);
    }
}
