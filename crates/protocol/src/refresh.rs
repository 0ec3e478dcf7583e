use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{ActionTag, EnvVars, ErrorType, OpId, WireError};

/// Makes the guest ready for its state to be saved: user processes are frozen, and from the answer on
/// nothing runs before a `refresh`. Answered by `quiesced`, or by `busy_error` while operations run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Quiesce {
    #[doc(hidden)]
    #[serde(default, skip_serializing)]
    #[cfg_attr(feature = "schema", schemars(skip))]
    pub action: ActionTag,
    /// The operation's id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub op_id: Option<OpId>,
}

/// Makes a guest whose state was restored one of its own: time, randomness, identity. User processes
/// thaw after it, and only then is other work taken. Answered by `refreshed`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Refresh {
    #[doc(hidden)]
    #[serde(default, skip_serializing)]
    #[cfg_attr(feature = "schema", schemars(skip))]
    pub action: ActionTag,
    /// The operation's id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub op_id: Option<OpId>,
    /// Microseconds since 1970-01-01 00:00 UTC.
    pub wall_clock_us: u64,
    /// Random bytes that nobody else has, in hexadecimal digits: 32 to 256 bytes.
    pub entropy: String,
    /// The guest's id, 32 lower-case hexadecimal digits, as `/etc/machine-id` holds it.
    pub machine_id: String,
    /// The guest's name: 1 to 63 lower-case letters, digits and `-`.
    pub hostname: String,
    /// Limits that the operator has set, by their names; they hold from the next line on.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub limits: BTreeMap<String, u64>,
    /// Certificate authorities that programs are to trust besides the image's own, in PEM, 16 KiB at most. They
    /// take the place of those that an earlier refresh brought; empty = none, absent = those stay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificates: Option<String>,
    /// Variables in every program's environment, unless its request sets them. They take the place of those that an
    /// earlier refresh brought; empty = none, absent = those stay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub environment: Option<EnvVars>,
}

/// The entropy is a secret of the guest's, and variables may be.
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

/// Answer to `quiesce`: the state can be saved now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Quiesced {
    /// The request's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub op_id: Option<OpId>,
}

/// Answer to `refresh`: time, randomness and identity are this guest's own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Refreshed {
    /// The request's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub op_id: Option<OpId>,
    /// The guest's new one: it differs from that of every other guest with the same past.
    pub boot_id: String,
}

/// Bytes of entropy, fewest and most: a ChaCha20 key, and the kernel's whole input pool eight times.
const ENTROPY_BYTES: std::ops::RangeInclusive<usize> = 32..=256;
const MACHINE_ID_DIGITS: usize = 32;
/// Bytes of certificates: some ten, of which a gateway needs one.
const CERTIFICATES_BYTES: usize = 16 * 1024;
/// POSIX's longest label.
const HOSTNAME_BYTES: usize = 63;
/// The range of clocks that Linux can be set to here: from 2020 to 2200. A host outside it has no clock.
const WALL_CLOCK_US: std::ops::RangeInclusive<u64> = 1_577_836_800_000_000..=7_258_118_400_000_000;

impl Refresh {
    /// Refuses what is past a limit; returns the entropy's bytes. The environment has limits that this may change:
    /// it is checked by those that hold afterwards.
    ///
    /// # Errors
    /// `request_error`, naming the field.
    pub fn check(&self) -> Result<Vec<u8>, WireError> {
        let refuse = |message: String| WireError::new(ErrorType::RequestError, message);
        if !WALL_CLOCK_US.contains(&self.wall_clock_us) {
            let (us, from, to) = (
                self.wall_clock_us,
                WALL_CLOCK_US.start(),
                WALL_CLOCK_US.end(),
            );
            return Err(refuse(format!(
                "field `wall_clock_us`: {us}; {from} to {to} are allowed"
            )));
        }
        let is_id = |c: u8| c.is_ascii_digit() || (b'a'..=b'f').contains(&c);
        if self.machine_id.len() != MACHINE_ID_DIGITS || !self.machine_id.bytes().all(is_id) {
            let message = format!(
                "field `machine_id`: {MACHINE_ID_DIGITS} lower-case hexadecimal digits are wanted"
            );
            return Err(refuse(message));
        }
        let is_name = |c: u8| c.is_ascii_digit() || c.is_ascii_lowercase() || c == b'-';
        let name = &self.hostname;
        let fits = (1..=HOSTNAME_BYTES).contains(&name.len());
        if !fits || !name.bytes().all(is_name) || name.starts_with('-') || name.ends_with('-') {
            let message = format!(
                "field `hostname`: 1 to {HOSTNAME_BYTES} lower-case letters, digits and `-` are wanted"
            );
            return Err(refuse(message));
        }
        if let Some(certificates) = &self.certificates {
            check_pem(certificates).map_err(refuse)?;
        }
        from_hex(&self.entropy)
            .filter(|bytes| ENTROPY_BYTES.contains(&bytes.len()))
            .ok_or_else(|| {
                let (least, most) = (ENTROPY_BYTES.start(), ENTROPY_BYTES.end());
                refuse(format!(
                    "field `entropy`: {least} to {most} bytes in hexadecimal digits are wanted"
                ))
            })
    }
}

/// Refuses what is no text of certificates. Whether they are any good, who uses them finds out.
fn check_pem(text: &str) -> Result<(), String> {
    const FIRST: &str = "-----BEGIN CERTIFICATE-----\n";
    const LAST: &str = "-----END CERTIFICATE-----\n";
    let bytes = text.len();
    if bytes > CERTIFICATES_BYTES {
        return Err(format!(
            "field `certificates`: {bytes} bytes; at most {CERTIFICATES_BYTES} are allowed"
        ));
    }
    let is_text = text
        .bytes()
        .all(|c| c == b'\n' || (b' '..=b'~').contains(&c));
    if text.is_empty() || is_text && text.starts_with(FIRST) && text.ends_with(LAST) {
        return Ok(());
    }
    Err(
        "field `certificates`: certificates in PEM are wanted, each line of them with its end"
            .into(),
    )
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
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
        assert!(with(pem(CERTIFICATES_BYTES)).check().is_ok());
        assert!(with(String::new()).check().is_ok());
        for wrong in [
            pem(CERTIFICATES_BYTES + 1),
            pem(100).trim_end().to_string(),
            format!("\n{}", pem(100)),
            pem(100).replace("AA", "\0A"),
        ] {
            let error = with(wrong).check().unwrap_err();
            assert!(error.message.contains("certificates"), "{error}");
        }
    }

    #[test]
    fn a_valid_one_gives_its_entropy() {
        assert_eq!(refresh().check().unwrap(), vec![15; 32]);
        let most = Refresh {
            entropy: "Ff".repeat(256),
            hostname: "a".repeat(63),
            ..refresh()
        };
        assert_eq!(most.check().unwrap(), vec![255; 256]);
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
            let mut wrong = refresh();
            spoil(&mut wrong);
            let error = wrong.check().unwrap_err();
            assert!(error.message.contains(field), "{field}: {error}");
        }
    }

    #[test]
    fn the_entropy_is_not_printed() {
        assert!(!format!("{:?}", refresh()).contains("0f0f"));
    }
}
