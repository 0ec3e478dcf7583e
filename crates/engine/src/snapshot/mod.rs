//! Saved states of guests: how they are taken, restored, warmed up, and stored as templates.
//!
//! Which request gets which template is decided in `provision`.

mod restore;
mod state;
mod template;
mod warmup;

pub(crate) use restore::StandbyProcess;
pub(crate) use state::Snapshot;
pub(crate) use template::{BuildResult, TemplateSpec, Templates};
pub(crate) use warmup::{quiesce, refresh, run_primer};
