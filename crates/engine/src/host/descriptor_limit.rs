use rustix::process::{Resource, getrlimit};

use crate::error::{Error, ErrorKind, describe_descriptor_limit};

/// Descriptors with which this program can run one VM, restored or booted (tried; with QEMU's share of its limit).
const MIN_DESCRIPTORS: u64 = 40;

/// Descriptors with which this program can use hot images: each open image takes three, and the libraries of QEMU, which all of
/// them map, some sixty.
const MIN_DESCRIPTORS_FOR_IMAGES: u64 = 256;

/// Returns whether this process may have the descriptors that hot images need beside those of VMs.
pub(crate) fn allows_hot_images() -> bool {
    let limit = getrlimit(Resource::Nofile).current;
    limit.is_none_or(|limit| limit >= MIN_DESCRIPTORS_FOR_IMAGES)
}

/// Checks that this process may have the descriptors that one VM needs. Without this check, some call in the middle of
/// a start would fail for a reason that names a file.
///
/// # Errors
/// [`ErrorKind::Host`] with the limit and how to raise it.
pub fn check_descriptor_limit() -> Result<(), Error> {
    match getrlimit(Resource::Nofile).current {
        Some(limit) if limit < MIN_DESCRIPTORS => {
            let message = format!(
                "a VM needs {MIN_DESCRIPTORS} descriptors, and {}",
                describe_descriptor_limit()
            );
            Err(Error::new(ErrorKind::Host, message))
        }
        _ => Ok(()),
    }
}
