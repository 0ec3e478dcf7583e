//! Saved states of guests: how they are taken, restored, warmed up, and stored as templates.
//!
//! Which request gets which template is decided in `provision`.

mod continuation;
mod hot_images;
mod image_files;
mod image_lifetime;
mod restore;
mod running_programs;
mod state;
mod state_process;
mod template;
mod template_memory;
mod template_spec;
mod write_state;
mod warmup;

pub(crate) use continuation::continue_guest;
pub(crate) use hot_images::HotImages;
pub(crate) use restore::WaitingProcess;
pub use running_programs::RunningPrograms;
pub(crate) use state::{Snapshot, WithProcess};
pub(crate) use state_process::load_process;
pub(crate) use template::{BuildResult, Templates, host_cpu};
pub(crate) use template_memory::TemplateMemory;
pub(crate) use template_spec::TemplateSpec;
pub(crate) use warmup::{quiesce, refresh, run_primer};
pub(crate) use write_state::{StateRecord, write_checkpoint, write_stopped};
