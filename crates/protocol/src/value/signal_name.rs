use serde::{Deserialize, Serialize};

use crate::error::{ErrorType, WireError};

/// A signal, by number or by name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(untagged)]
pub enum SignalName {
    /// The number as in signal(7), 1 to 31.
    Number(i32),
    /// The name as in signal(7), with or without `SIG`.
    Name(String),
}

/// The signals with names: those that have the same number on x86-64 and on ARM.
const SIGNALS: [(&str, i32); 30] = [
    ("HUP", 1),
    ("INT", 2),
    ("QUIT", 3),
    ("ILL", 4),
    ("TRAP", 5),
    ("ABRT", 6),
    ("BUS", 7),
    ("FPE", 8),
    ("KILL", 9),
    ("USR1", 10),
    ("SEGV", 11),
    ("USR2", 12),
    ("PIPE", 13),
    ("ALRM", 14),
    ("TERM", 15),
    ("CHLD", 17),
    ("CONT", 18),
    ("STOP", 19),
    ("TSTP", 20),
    ("TTIN", 21),
    ("TTOU", 22),
    ("URG", 23),
    ("XCPU", 24),
    ("XFSZ", 25),
    ("VTALRM", 26),
    ("PROF", 27),
    ("WINCH", 28),
    ("IO", 29),
    ("PWR", 30),
    ("SYS", 31),
];
const MAX_SIGNAL: i32 = 31;

impl SignalName {
    /// Returns the number of the signal.
    ///
    /// # Errors
    /// `request_error`: there is no such signal.
    pub fn number(&self) -> Result<i32, WireError> {
        let number = match self {
            Self::Number(number) => Some(*number).filter(|n| (1..=MAX_SIGNAL).contains(n)),
            Self::Name(name) => {
                let short = name.strip_prefix("SIG").unwrap_or(name);
                let entry = SIGNALS.iter().find(|(known, _)| *known == short);
                entry.map(|(_, number)| *number)
            }
        };
        number.ok_or_else(|| self.unknown())
    }

    fn unknown(&self) -> WireError {
        let shown = match self {
            Self::Number(number) => number.to_string(),
            Self::Name(name) => name
                .chars()
                .take(20)
                .flat_map(char::escape_default)
                .collect(),
        };
        let message = format!(
            "field `signal`: there is no signal `{shown}`; use a number from 1 to {MAX_SIGNAL}, or a name such as TERM"
        );
        WireError::new(ErrorType::RequestError, message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_numbers_and_names() {
        let number = |name: &str| SignalName::Name(name.into()).number();
        assert_eq!(
            (number("INT").unwrap(), number("SIGTERM").unwrap()),
            (2, 15)
        );
        assert_eq!(SignalName::Number(31).number().unwrap(), 31);

        for unknown in [
            SignalName::Number(0),
            SignalName::Number(32),
            SignalName::Name("DANCE".into()),
        ] {
            assert_eq!(
                unknown.number().unwrap_err().error_type,
                ErrorType::RequestError
            );
        }
    }
}
