//! Progress of package installation, on standard error.

use std::io::IsTerminal;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use fumehood_engine::{InstalledPackage, PackageStep};
use indicatif::{ProgressBar, ProgressStyle};

use super::messages::eprint_message;

/// The time between two frames of the spinner.
const SPINNER_TICK: Duration = Duration::from_millis(120);

/// Shows the steps of a package installation: a spinner on a terminal, one line per step elsewhere.
#[derive(Clone)]
pub(crate) struct PackageProgress(Option<Arc<Mutex<ProgressState>>>);

#[derive(Default)]
struct ProgressState {
    spinner: Option<ProgressBar>,
    step: Option<PackageStep>,
}

impl PackageProgress {
    /// Creates a display, or one that shows nothing if `is_quiet`.
    pub(crate) fn new(is_quiet: bool) -> Self {
        Self((!is_quiet).then(Arc::default))
    }

    /// Shows the current step. Repeated steps are shown once.
    pub(crate) fn show_step(&self, step: PackageStep) {
        let Some(state) = &self.0 else { return };
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.step.replace(step) == Some(step) {
            return;
        }

        let text = format!("packages: {step}");
        if std::io::stderr().is_terminal() {
            state.spinner.get_or_insert_with(spinner).set_message(text);
        } else {
            eprint_message(&text);
        }
    }

    /// Shows the versions of the packages.
    pub(crate) fn show_versions(&self, packages: &[InstalledPackage]) {
        self.clear();
        if self.0.is_some() && !packages.is_empty() {
            let versions: Vec<_> = packages.iter().map(ToString::to_string).collect();
            eprint_message(&format!("packages: {}", versions.join(", ")));
        }
    }

    /// Clears the spinner, so that other output can be written.
    pub(crate) fn clear(&self) {
        let Some(state) = &self.0 else { return };
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);

        if let Some(spinner) = state.spinner.take() {
            spinner.finish_and_clear();
        }
    }
}

fn spinner() -> ProgressBar {
    let spinner = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template("{spinner} {elapsed} {wide_msg}") {
        spinner.set_style(style);
    }
    spinner.enable_steady_tick(SPINNER_TICK);
    spinner
}
