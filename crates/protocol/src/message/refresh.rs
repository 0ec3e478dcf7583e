//! Snapshots: `quiesce` before the state of a guest is saved, `refresh` after it is restored.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::envelope::{ActionTag, response};
use crate::error::{ErrorType, WireError};
use crate::value::{EnvVars, OpId};

/// Prepares the guest for a snapshot: user processes are frozen, and from the answer on nothing runs before
/// a `refresh`. The agent answers with `quiesced`, or with `busy_error` while operations run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Quiesce {
    #[doc(hidden)]
    #[serde(default, skip_serializing)]
    #[cfg_attr(feature = "schema", schemars(skip))]
    pub action: ActionTag,
    /// The id of the operation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub op_id: Option<OpId>,
}

/// Gives a restored guest its own time, randomness and identity. User processes are thawed afterwards, and
/// only then does the agent accept other work. The agent answers with `refreshed`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Refresh {
    #[doc(hidden)]
    #[serde(default, skip_serializing)]
    #[cfg_attr(feature = "schema", schemars(skip))]
    pub action: ActionTag,
    /// The id of the operation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub op_id: Option<OpId>,
    /// The time, in microseconds since 1970-01-01 00:00 UTC.
    pub wall_clock_us: u64,
    /// Random bytes for this guest only, in hexadecimal digits: 32 to 256 bytes.
    pub entropy: String,
    /// The id of the guest: 32 lower-case hexadecimal digits, as in `/etc/machine-id`.
    pub machine_id: String,
    /// The host name of the guest: 1 to 63 lower-case letters, digits and `-`.
    pub hostname: String,
    /// The limits that the operator has set, by name. They apply from the next line on.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub limits: BTreeMap<String, u64>,
    /// Certificate authorities that programs trust in addition to those of the image, in PEM, at most 16 KiB.
    /// They replace those of an earlier refresh; empty = none, absent = unchanged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificates: Option<String>,
    /// Environment variables of every program, unless its request sets them. They replace those of an earlier
    /// refresh; empty = none, absent = unchanged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub environment: Option<EnvVars>,
}

/// Leaves out the entropy, which is a secret of the guest, and the variables, which may be.
impl fmt::Debug for Refresh {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Refresh")
            .field("op_id", &self.op_id)
            .field("wall_clock_us", &self.wall_clock_us)
            .field("machine_id", &self.machine_id)
            .field("hostname", &self.hostname)
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

response! {
    /// The answer to `quiesce`: the state can be saved now.
    Quiesced {
        /// The user's programs that were frozen and continue in each copy, without the agent's interpreters: at most 32.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        programs: Vec<RunningProgram>,
        /// How many there are, with those that `programs` leaves out.
        #[serde(default, skip_serializing_if = "is_zero")]
        program_count: u64,
    }
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// A program that runs while the state of a guest is saved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct RunningProgram {
    /// The process id in the guest.
    pub pid: i32,
    /// The name, as the process has set it: at most 15 printable ASCII characters.
    pub name: String,
}

impl RunningProgram {
    /// The programs that `quiesced` lists, at most.
    pub const MAX_LISTED: usize = 32;
    /// The longest name in Linux (`TASK_COMM_LEN` without its NUL), in bytes.
    const MAX_NAME_BYTES: usize = 15;

    /// Describes a program. Its name is truncated, and `?` replaces bytes that are not printable ASCII.
    #[must_use]
    pub fn new(pid: i32, name: &[u8]) -> Self {
        let shown = |byte: &u8| match byte {
            b' '..=b'~' => char::from(*byte),
            _ => '?',
        };
        let name = name.iter().take(Self::MAX_NAME_BYTES).map(shown).collect();

        Self { pid, name }
    }
}

response! {
    /// The answer to `refresh`: the guest has its own time, randomness and identity.
    Refreshed {
        /// The new boot id of the guest, which differs from that of every other guest restored from the same
        /// state.
        boot_id: String,
    }
}

/// The minimum and maximum of entropy, in bytes: a ChaCha20 key, and eight times the kernel's whole input
/// pool.
const ENTROPY_BYTES: std::ops::RangeInclusive<usize> = 32..=256;
const MACHINE_ID_DIGITS: usize = 32;
/// The maximum size of all certificates, in bytes: some ten, of which a gateway needs one.
const MAX_CERTIFICATES_BYTES: usize = 16 * 1024;
/// The longest label in POSIX, in bytes.
const MAX_HOSTNAME_BYTES: usize = 63;
/// The range of times that the guest's clock is set to: 2020 to 2200. A host outside it has no valid clock.
const WALL_CLOCK_US: std::ops::RangeInclusive<u64> = 1_577_836_800_000_000..=7_258_118_400_000_000;

impl Refresh {
    /// Validates the request and returns the bytes of the entropy.
    ///
    /// The environment is not validated here: its limits may change with this request, and those that
    /// apply afterwards count.
    ///
    /// # Errors
    /// `request_error`, naming the field.
    pub fn check(&self) -> Result<Vec<u8>, WireError> {
        let check = || {
            self.check_wall_clock()?;
            self.check_machine_id()?;
            self.check_hostname()?;
            if let Some(certificates) = &self.certificates {
                check_pem(certificates)?;
            }
            self.decode_entropy()
        };
        check().map_err(|message| WireError::new(ErrorType::RequestError, message))
    }

    fn check_wall_clock(&self) -> Result<(), String> {
        if WALL_CLOCK_US.contains(&self.wall_clock_us) {
            return Ok(());
        }

        let us = self.wall_clock_us;
        let (min, max) = (WALL_CLOCK_US.start(), WALL_CLOCK_US.end());
        Err(format!(
            "field `wall_clock_us`: {us}; {min} to {max} are allowed"
        ))
    }

    fn check_machine_id(&self) -> Result<(), String> {
        let is_digit = |c: u8| c.is_ascii_digit() || (b'a'..=b'f').contains(&c);
        if self.machine_id.len() == MACHINE_ID_DIGITS && self.machine_id.bytes().all(is_digit) {
            return Ok(());
        }

        Err(format!(
            "field `machine_id`: must be {MACHINE_ID_DIGITS} lower-case hexadecimal digits"
        ))
    }

    fn check_hostname(&self) -> Result<(), String> {
        let name = &self.hostname;
        let is_allowed = |c: u8| c.is_ascii_digit() || c.is_ascii_lowercase() || c == b'-';
        let is_valid = (1..=MAX_HOSTNAME_BYTES).contains(&name.len())
            && name.bytes().all(is_allowed)
            && !name.starts_with('-')
            && !name.ends_with('-');
        if is_valid {
            return Ok(());
        }

        Err(format!(
            "field `hostname`: must be 1 to {MAX_HOSTNAME_BYTES} lower-case letters, digits and inner `-`"
        ))
    }

    fn decode_entropy(&self) -> Result<Vec<u8>, String> {
        let bytes = decode_hex(&self.entropy).filter(|bytes| ENTROPY_BYTES.contains(&bytes.len()));
        bytes.ok_or_else(|| {
            let (min, max) = (ENTROPY_BYTES.start(), ENTROPY_BYTES.end());
            format!("field `entropy`: must be {min} to {max} bytes in hexadecimal digits")
        })
    }
}

/// Rejects text that is not in the form of PEM certificates. The programs that use the certificates
/// validate their content.
fn check_pem(text: &str) -> Result<(), String> {
    const FIRST: &str = "-----BEGIN CERTIFICATE-----\n";
    const LAST: &str = "-----END CERTIFICATE-----\n";

    let bytes = text.len();
    if bytes > MAX_CERTIFICATES_BYTES {
        return Err(format!(
            "field `certificates`: {bytes} bytes; at most {MAX_CERTIFICATES_BYTES} are allowed"
        ));
    }

    let is_printable = text
        .bytes()
        .all(|c| c == b'\n' || (b' '..=b'~').contains(&c));
    if text.is_empty() || is_printable && text.starts_with(FIRST) && text.ends_with(LAST) {
        return Ok(());
    }

    Err("field `certificates`: must be certificates in PEM, with a newline after every line".into())
}

fn decode_hex(text: &str) -> Option<Vec<u8>> {
    let digit = |c: &u8| {
        char::from(*c)
            .to_digit(16)
            .and_then(|d| u8::try_from(d).ok())
    };

    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if !rest.is_empty() {
        return None;
    }

    pairs
        .iter()
        .map(|[high, low]| Some(digit(high)? << 4 | digit(low)?))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refresh() -> Refresh {
        Refresh {
            action: ActionTag,
            op_id: None,
            wall_clock_us: 1_795_000_000_000_000,
            entropy: "0f".repeat(32),
            machine_id: "0123456789abcdef0123456789abcdef".into(),
            hostname: "fumehood".into(),
            limits: BTreeMap::new(),
            certificates: None,
            environment: None,
        }
    }

    fn pem(bytes: usize) -> String {
        let (first, last) = (
            "-----BEGIN CERTIFICATE-----\n",
            "\n-----END CERTIFICATE-----\n",
        );
        let body = "A".repeat(bytes - first.len() - last.len());
        [first, &body, last].concat()
    }

    #[test]
    fn certificates_at_the_limit_and_past_it() {
        let with = |certificates: String| Refresh {
            certificates: Some(certificates),
            ..refresh()
        };
        assert!(with(pem(MAX_CERTIFICATES_BYTES)).check().is_ok());
        assert!(with(String::new()).check().is_ok());

        for invalid in [
            pem(MAX_CERTIFICATES_BYTES + 1),
            pem(100).trim_end().to_string(),
            format!("\n{}", pem(100)),
            pem(100).replace("AA", "\0A"),
        ] {
            let error = with(invalid).check().unwrap_err();
            assert!(error.message.contains("certificates"), "{error}");
        }
    }

    #[test]
    fn a_valid_refresh_returns_its_entropy() {
        assert_eq!(refresh().check().unwrap(), vec![15; 32]);

        let longest = Refresh {
            entropy: "Ff".repeat(256),
            hostname: "a".repeat(63),
            ..refresh()
        };

        assert_eq!(longest.check().unwrap(), vec![255; 256]);
    }

    #[test]
    fn each_field_is_checked_and_named() {
        type Spoil = fn(&mut Refresh);
        let cases: [(&str, Spoil); 12] = [
            ("wall_clock_us", |r| r.wall_clock_us = 1),
            ("wall_clock_us", |r| r.wall_clock_us = u64::MAX),
            ("entropy", |r| r.entropy = "0f".repeat(31)),
            ("entropy", |r| r.entropy = "0f".repeat(257)),
            ("entropy", |r| r.entropy.push('0')),
            ("entropy", |r| r.entropy = "é".repeat(32)),
            ("machine_id", |r| r.machine_id = "A".repeat(32)),
            ("machine_id", |r| r.machine_id = "a".repeat(33)),
            ("hostname", |r| r.hostname = String::new()),
            ("hostname", |r| r.hostname = "a".repeat(64)),
            ("hostname", |r| r.hostname = "-a".into()),
            ("hostname", |r| r.hostname = "A".into()),
        ];

        for (field, spoil) in cases {
            let mut invalid = refresh();
            spoil(&mut invalid);
            let error = invalid.check().unwrap_err();
            assert!(error.message.contains(field), "{field}: {error}");
        }
    }

    #[test]
    fn names_of_programs_are_short_and_printable() {
        let name = |bytes: &[u8]| RunningProgram::new(7, bytes).name;
        assert_eq!(name(b"node (main)"), "node (main)");
        assert_eq!(name(b"a\x1b[2J\n\xff"), "a?[2J??");
        assert_eq!(name(b"0123456789abcdef"), "0123456789abcde");
    }

    #[test]
    fn the_answer_of_an_older_agent_lists_no_programs() {
        let older: Quiesced = serde_json::from_str(r#"{"op_id":1}"#).unwrap();
        assert_eq!((older.programs.len(), older.program_count), (0, 0));
        assert_eq!(serde_json::to_string(&older).unwrap(), r#"{"op_id":1}"#);
    }

    #[test]
    fn debug_output_omits_the_entropy() {
        assert!(!format!("{:?}", refresh()).contains("0f0f"));
    }
}
