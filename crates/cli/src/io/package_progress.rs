use std::io::IsTerminal;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use fumehood_engine::PackageStep;
use indicatif::{ProgressBar, ProgressStyle};

use super::messages::complain;

/// Shows what is done for packages: a moving line on a terminal, a line a step elsewhere.
#[derive(Clone)]
pub(crate) struct PackageProgress(Option<Arc<Mutex<Now>>>);

#[derive(Default)]
struct Now {
    bar: Option<ProgressBar>,
    step: Option<PackageStep>,
}

impl PackageProgress {
    /// One that shows nothing where it is to be quiet.
    pub(crate) fn new(is_quiet: bool) -> Self {
        Self((!is_quiet).then(Arc::default))
    }

    pub(crate) fn step(&self, step: PackageStep) {
        let Some(now) = &self.0 else { return };
        let mut now = now.lock().unwrap_or_else(PoisonError::into_inner);
        if now.step.replace(step) == Some(step) {
            return;
        }
        let text = format!("packages: {step}");
        if !std::io::stderr().is_terminal() {
            return complain(&text);
        }
        now.bar.get_or_insert_with(bar).set_message(text);
    }

    /// Takes the moving line away: something else is to be written.
    pub(crate) fn finish(&self) {
        let Some(now) = &self.0 else { return };
        let bar = now
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .bar
            .take();
        if let Some(bar) = bar {
            bar.finish_and_clear();
        }
    }
}

fn bar() -> ProgressBar {
    let bar = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template("{spinner} {elapsed} {wide_msg}") {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(120));
    bar
}
