//! The files of an image, and how long it is of use.

use std::time::Duration;

/// The file of changed pages.
pub(super) const PAGES: &str = "pages";
/// The file of the description.
pub(super) const DESCRIPTION: &str = "image.json";
/// The file with the id of the boot of the host.
pub(super) const BOOT: &str = "boot";
/// The file with the text that describes the guest to people.
pub(super) const LABEL: &str = "label";

/// How long an image is used. Its VMs share the addresses and canaries of their QEMU, so that what one of them learns by
/// breaking into its QEMU helps against the others for no longer than this.
pub const HOT_IMAGE_AGE: Duration = Duration::from_hours(24);

/// Returns the id of this boot of the host: an image is of use until the next boot.
pub fn boot_id() -> Option<String> {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(id.trim().to_owned())
}
