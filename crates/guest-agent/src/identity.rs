//! What makes a guest one of a kind: clock, randomness, host name, machine id and boot id. A refresh replaces all of
//! it, so that copies of one saved guest differ.

use std::fs::File;
use std::io;

use fumehood_protocol::Refresh;
use fumehood_sys::guest::{MappedFile, add_entropy, reseed};
use rustix::time::{ClockId, Timespec, clock_settime};

use crate::ca_bundle::CaBundle;
use crate::process::ForkMarks;

/// Width of the name in /etc/hosts, in characters: the longest name that is allowed.
const MAX_HOSTS_NAME: usize = 63;

/// Returns the contents of /etc/hosts for a guest of this name. The length is the same for every name, because a
/// refresh overwrites the file in place.
pub(crate) fn hosts(name: &str) -> String {
    format!("127.0.0.1 localhost {name:<MAX_HOSTS_NAME$}\n::1 localhost\n")
}

/// The parts of a guest's identity. They are opened at boot and the files stay mapped, because a restored guest has no
/// time to look for them.
#[derive(Debug)]
pub(crate) struct Identity {
    pub(crate) random: File,
    pub(crate) machine_id: MappedFile,
    pub(crate) boot_id: MappedFile,
    pub(crate) hosts: MappedFile,
    /// The certificate authorities that programs trust.
    pub(crate) ca_bundle: CaBundle,
    /// The guest's state was saved or will be: no code runs before the next refresh.
    pub(crate) awaits_refresh: bool,
    /// The current machine id; empty before the first refresh.
    pub(crate) machine_id_str: String,
    /// The marks of the processes that were frozen by the last quiesce, until the refresh that clears them.
    pub(crate) fork_marks: Vec<ForkMarks>,
}

impl Identity {
    /// Applies a refresh to the machine and returns its new boot id.
    ///
    /// # Errors
    /// Returns the error of the first step that the kernel rejects.
    pub(crate) fn apply(&mut self, request: &Refresh, entropy: &[u8]) -> io::Result<String> {
        let microseconds = i64::try_from(request.wall_clock_us).unwrap_or(i64::MAX);
        let time = Timespec {
            tv_sec: microseconds / 1_000_000,
            tv_nsec: microseconds % 1_000_000 * 1000,
        };
        clock_settime(ClockId::Realtime, time)?;

        add_entropy(&self.random, entropy)?;
        reseed(&self.random)?;
        // Generators that start again take their seed from the kernel's new one.
        for marks in &self.fork_marks {
            marks.clear();
        }

        rustix::system::sethostname(request.hostname.as_bytes())?;
        self.machine_id.write(request.machine_id.as_bytes());
        self.hosts.write(hosts(&request.hostname).as_bytes());

        if let Some(certificates) = &request.certificates {
            self.ca_bundle.set_added(certificates)?;
        }

        let boot_id = new_boot_id()?;
        self.boot_id.write(boot_id.as_bytes());

        Ok(boot_id)
    }
}

/// Returns a random UUID, as the kernel generates one for each boot.
fn new_boot_id() -> io::Result<String> {
    let mut bytes = [0; 16];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
    // Version 4, variant 1.
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;

    let mut text = String::with_capacity(36);

    for (at, byte) in bytes.into_iter().enumerate() {
        if [4, 6, 8, 10].contains(&at) {
            text.push('-');
        }
        for digit in [byte >> 4, byte & 15] {
            text.push(char::from_digit(u32::from(digit), 16).unwrap_or('0'));
        }
    }

    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boot_ids_are_random_uuids() {
        let (one, other) = (new_boot_id().unwrap(), new_boot_id().unwrap());
        assert_ne!(one, other);
        let lengths: Vec<usize> = one.split('-').map(str::len).collect();
        assert_eq!((lengths, &one[14..15]), (vec![8, 4, 4, 4, 12], "4"));
    }
}
