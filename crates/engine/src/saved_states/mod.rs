//! Saved states: sandboxes that were paused, and checkpoints on disk.
//!
//! Which files a state consists of belongs in the crate `image`; reading and restoring guests belongs in `snapshot`.

mod description;
mod kind;
mod pause;
mod resume;
mod saved_state;

pub use kind::SavedStateKind;
pub use resume::ResumeOptions;
pub use saved_state::SavedState;
