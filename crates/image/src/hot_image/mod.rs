//! Hot images: QEMU processes that were saved with their translated code. A VM continues from one within milliseconds.
//!
//! `hot-images/KEY/` contains the pages that QEMU and its guest have changed since the template was restored, and a
//! description, which belongs to the engine. All other pages are those of the template, of programs and of libraries.
//! An image is of use only until the host is started again, so nothing is flushed to the disk. Its files are mapped by
//! running VMs: they are written once, and never changed.

mod failure;
mod format;
mod hot_images;
mod lock;
mod prune;
mod stored;
mod summary;
mod writer;

pub use self::failure::BuildFailure;
pub use self::format::{HOT_IMAGE_AGE, boot_id};
pub use self::hot_images::HotImages;
pub use self::lock::BuilderLock;
pub use self::stored::HotImage;
pub use self::summary::HotImageSummary;
pub use self::writer::HotImageWriter;
