use std::fs;
use std::os::fd::{AsFd, RawFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};

use fumehood_launcher::{Descriptor, DescriptorKind};

use super::image_error::ImageError;

/// The identity of an open file or socket, which is the same in all processes that have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DescriptorIdentity {
    device: u64,
    inode: u64,
}

impl DescriptorIdentity {
    /// Returns the identity of a descriptor.
    ///
    /// # Errors
    /// The error of the operating system.
    pub fn of(descriptor: impl AsFd) -> std::io::Result<Self> {
        let status = rustix::fs::fstat(descriptor)?;
        Ok(Self {
            device: status.st_dev,
            inode: status.st_ino,
        })
    }
}

/// Returns the descriptors of a process. `passed` are those that its owner passes anew, in the order of their indexes;
/// `unneeded` those that it does not use any more.
pub(super) fn read_descriptors(
    pid: u32,
    passed: &[DescriptorIdentity],
    unneeded: &[DescriptorIdentity],
) -> Result<Vec<Descriptor>, ImageError> {
    /// The standard streams belong to the launcher.
    const FIRST: RawFd = 3;

    let directory = format!("/proc/{pid}/fd");
    let mut numbers = Vec::new();
    for entry in fs::read_dir(&directory)? {
        numbers.extend(
            entry?
                .file_name()
                .to_str()
                .and_then(|name| name.parse::<RawFd>().ok()),
        );
    }
    numbers.sort_unstable();

    let identity = |number: RawFd| -> Result<DescriptorIdentity, ImageError> {
        let metadata = fs::metadata(format!("{directory}/{number}"))?;
        let (device, inode) = (metadata.dev(), metadata.ino());
        Ok(DescriptorIdentity { device, inode })
    };

    let kept = numbers.into_iter().filter(|number| *number >= FIRST);
    kept.map(|number| {
        let info = fs::read_to_string(format!("/proc/{pid}/fdinfo/{number}"))?;
        let target = fs::read_link(format!("{directory}/{number}"))?;
        let target = target.to_string_lossy();
        let kind = match kind(&target, &info) {
            Some(kind) => kind,
            // By its number: paths are those of another root.
            None if is_null(&fs::metadata(format!("{directory}/{number}"))?) => {
                DescriptorKind::Null
            }
            None => {
                let found = identity(number)?;
                match passed.iter().position(|known| *known == found) {
                    Some(index) => DescriptorKind::Passed(index),
                    None if unneeded.contains(&found) => DescriptorKind::Null,
                    None => {
                        let what = format!("descriptor {number} is {target}");
                        return Err(ImageError::Unsupported(what));
                    }
                }
            }
        };
        Ok(Descriptor {
            number,
            nonblocking: is_nonblocking(&info),
            kind,
        })
    })
    .collect()
}

/// Returns the kind of a descriptor that can be created again. Returns `None` for files and sockets.
fn kind(target: &str, info: &str) -> Option<DescriptorKind> {
    let field = |name: &str| {
        info.lines()
            .find_map(|line| line.strip_prefix(name))
            .map(str::trim)
    };
    match target {
        // A counter above 32 bits does not occur.
        "anon_inode:[eventfd]" => {
            let count = u32::from_str_radix(field("eventfd-count:")?, 16).ok()?;
            Some(DescriptorKind::EventFd(count))
        }
        "anon_inode:[signalfd]" => {
            let mask = u64::from_str_radix(field("sigmask:")?, 16).ok()?;
            Some(DescriptorKind::SignalFd(mask))
        }
        "anon_inode:[eventpoll]" if field("tfd:").is_none() => Some(DescriptorKind::Epoll),
        // The memory is mapped and the state was read: neither is read again.
        _ if target.starts_with("/memfd:") => Some(DescriptorKind::Null),
        _ => None,
    }
}

/// Returns whether this is the null device.
fn is_null(metadata: &fs::Metadata) -> bool {
    let device = metadata.rdev();
    metadata.file_type().is_char_device()
        && (rustix::fs::major(device), rustix::fs::minor(device)) == (1, 3)
}

fn is_nonblocking(info: &str) -> bool {
    let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
    let flags = flags.and_then(|text| u32::from_str_radix(text.trim(), 8).ok());
    flags.is_some_and(|flags| flags & rustix::fs::OFlags::NONBLOCK.bits() != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn anonymous_descriptors_are_recognized() {
        let event = kind(
            "anon_inode:[eventfd]",
            "pos:\t0\nflags:\t02004002\neventfd-count:               1f\n",
        );
        assert_eq!(event, Some(DescriptorKind::EventFd(0x1f)));
        let signal = kind(
            "anon_inode:[signalfd]",
            "flags:\t02004002\nsigmask:\t0000000000000008\n",
        );
        assert_eq!(signal, Some(DescriptorKind::SignalFd(8)));
        assert_eq!(
            kind("anon_inode:[eventpoll]", "flags:\t02\n"),
            Some(DescriptorKind::Epoll)
        );
    }

    #[test]
    fn what_cannot_be_made_anew_is_not_recognized() {
        assert_eq!(
            kind("anon_inode:[eventpoll]", "tfd:        5 events:       19"),
            None
        );
        for other in [
            "anon_inode:[io_uring]",
            "anon_inode:kvm-vm",
            "socket:[7]",
            "anon_inode:[userfaultfd]",
        ] {
            assert_eq!(kind(other, "flags: 02\n"), None, "{other}");
        }
    }

    #[test]
    fn the_null_device_is_recognized_by_its_number() {
        let metadata = |path: &str| fs::metadata(path).unwrap();
        assert!(is_null(&metadata("/dev/null")));
        for other in ["/dev/zero", "/dev", "/proc/self/maps"] {
            assert!(!is_null(&metadata(other)), "{other}");
        }
    }

    #[test]
    fn the_flag_of_nonblocking_descriptors_is_read() {
        assert!(is_nonblocking("pos:\t0\nflags:\t02004002\n"));
        assert!(!is_nonblocking("pos:\t0\nflags:\t02000002\n"));
    }
}
