//! A stopped QEMU as an image from which new processes continue, with the code that it has translated.
//!
//! The image is taken from outside: registers by `ptrace`, memory by `/proc/PID/mem`. Nothing of fumehood is in QEMU, and
//! nothing is assumed about QEMU except that it stands still after `stop`. Everything else is checked: what cannot be copied
//! is an error, and the caller does without the image.

mod saved_process;
mod address_space;
mod descriptors;
mod saved_file;
mod image_error;

pub use address_space::GuestMapping;
pub use descriptors::DescriptorIdentity;
pub use image_error::ImageError;
pub use saved_file::SavedFile;
pub use saved_process::{ProcessToSave, SavedProcess};
