//! What a build says while it works.

use std::time::{Duration, Instant};

use crate::Error;

/// One step of a build.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// Counted from one.
    pub index: usize,
    /// How many there are.
    pub total: usize,
    /// What it does, in a few words.
    pub title: &'static str,
    /// How long it usually takes on two processors when nothing is cached.
    pub usual: Duration,
}

/// How a step ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StepEnd {
    /// The work was done.
    Done,
    /// An earlier build had done it.
    Cached,
}

/// Hears how a build gets on. Every method but the first two has an empty default.
pub trait Progress {
    /// A step begins.
    fn started(&mut self, step: &Step);
    /// A step ended well after `took`.
    fn done(&mut self, step: &Step, end: StepEnd, took: Duration);
    /// A step goes on: `line` is what its program said last, `fraction` how far it is, from 0 to 1, where
    /// that is known.
    fn advanced(&mut self, step: &Step, fraction: Option<f64>, line: &str) {
        let _ = (step, fraction, line);
    }
    /// Another build uses this store; this one goes on when that has ended.
    fn waiting(&mut self) {}
}

/// Hears nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoProgress;

impl Progress for NoProgress {
    fn started(&mut self, _: &Step) {}
    fn done(&mut self, _: &Step, _: StepEnd, _: Duration) {}
}

/// Titles and usual times of the steps, measured on two processors of the project's kind of machine.
const STEPS: [(&str, u64); 6] = [
    ("kernel", 230),
    ("Debian packages", 35),
    ("uv", 3),
    ("bun", 8),
    ("root file system", 8),
    ("checks and manifest", 4),
];

/// Counts the steps of one build.
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
        let usual = Duration::from_secs(seconds);
        let step = Step {
            index: self.next,
            total: STEPS.len(),
            title,
            usual,
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

/// The step under way, for whoever does its work.
pub(crate) struct StepProgress<'a> {
    progress: &'a mut dyn Progress,
    step: Step,
}

impl StepProgress<'_> {
    /// A line of output.
    pub(crate) fn line(&mut self, line: &str) {
        self.progress.advanced(&self.step, None, line);
    }

    /// A line of output with how far the step is.
    pub(crate) fn fraction(&mut self, fraction: f64, line: &str) {
        self.progress
            .advanced(&self.step, Some(fraction.clamp(0.0, 1.0)), line);
    }
}
