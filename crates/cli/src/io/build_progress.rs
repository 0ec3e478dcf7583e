//! Progress of an image build, on standard error.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use fumehood_engine::image::{Progress, Step, StepEnd};
use indicatif::{ProgressBar, ProgressStyle};

use super::messages::eprint_line;

/// The interval of progress lines within a long step if there is no terminal.
const PROGRESS_LINE_INTERVAL: Duration = Duration::from_secs(30);

/// The time between two frames of the progress bar.
const BAR_TICK: Duration = Duration::from_millis(120);

/// The length of the progress bar: its position is in thousandths.
const BAR_LENGTH: u64 = 1000;

/// Shows the progress of a build: a bar on a terminal, one line per step elsewhere.
pub(crate) struct BuildProgress {
    bar: Option<ProgressBar>,
    last_line: Instant,
}

impl BuildProgress {
    pub(crate) fn new() -> Self {
        Self {
            bar: None,
            last_line: Instant::now(),
        }
    }
}

impl Progress for BuildProgress {
    fn started(&mut self, step: &Step) {
        let Step {
            index,
            total,
            title,
            usual,
        } = step;
        let text = format!("[{index}/{total}] {title} (usually {} s)", usual.as_secs());
        self.last_line = Instant::now();

        if std::io::stderr().is_terminal() {
            self.bar = Some(progress_bar(text));
        } else {
            eprint_line(&text);
        }
    }

    fn done(&mut self, step: &Step, end: StepEnd, took: Duration) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }

        let end = match end {
            StepEnd::Done => "done",
            StepEnd::Cached => "cached",
        };
        let seconds = took.as_secs_f32();
        eprint_line(&format!(
            "[{}/{}] {}: {end} in {seconds:.1} s",
            step.index, step.total, step.title
        ));
    }

    fn advanced(&mut self, step: &Step, fraction: Option<f64>, line: &str) {
        let position = fraction.map(|fraction| (fraction * BAR_LENGTH as f64) as u64);

        // Without a terminal, a long step prints a line now and then.
        if let Some(bar) = &self.bar {
            bar.set_message(line.to_owned());
            if let Some(position) = position {
                bar.set_position(position);
            }
        } else if self.last_line.elapsed() >= PROGRESS_LINE_INTERVAL {
            self.last_line = Instant::now();
            let percent = position
                .map(|position| format!("{} %", position / 10))
                .unwrap_or_default();
            eprint_line(&format!(
                "[{}/{}] {}: {percent} {line}",
                step.index, step.total, step.title
            ));
        }
    }

    fn waiting(&mut self) {
        eprint_line("waiting for another build in this store to finish");
    }
}

fn progress_bar(prefix: String) -> ProgressBar {
    let template = "{spinner} {prefix} {percent:>3}% {elapsed} {wide_msg}";
    let bar = ProgressBar::new(BAR_LENGTH).with_prefix(prefix);
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.enable_steady_tick(BAR_TICK);
    bar
}
