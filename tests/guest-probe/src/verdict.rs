use rustix::io::Errno;
use serde_json::{Value, json};

/// Something that a program must not be able to do, and the attempt to do it.
pub(crate) struct Wall {
    pub(crate) name: &'static str,
    pub(crate) tried: &'static str,
    pub(crate) attempt: fn() -> Verdict,
}

impl Wall {
    /// Makes the attempt and returns the verdict as JSON.
    pub(crate) fn verdict_json(&self) -> Value {
        let verdict = (self.attempt)();
        json!({
            "wall": self.name,
            "holds": verdict.holds,
            "tried": self.tried,
            "evidence": verdict.evidence,
        })
    }
}

/// The result of an attempt.
pub(crate) struct Verdict {
    holds: bool,
    evidence: String,
}

/// The errors by which the kernel denies an attempt: not permitted, or no such call.
const DENIALS: [Errno; 4] = [Errno::PERM, Errno::ACCESS, Errno::NOSYS, Errno::ROFS];

/// The maximum number of unwanted findings that are listed.
const MAX_LISTED: usize = 8;

impl Verdict {
    /// Holds if the kernel denied the attempt.
    pub(crate) fn denied<T>(result: Result<T, impl Into<std::io::Error>>) -> Self {
        Self::expected(result, &DENIALS)
    }

    /// Holds if the target does not exist.
    pub(crate) fn absent<T>(result: Result<T, impl Into<std::io::Error>>) -> Self {
        Self::expected(result, &[Errno::NOENT, Errno::NODEV])
    }

    /// Holds if the attempt failed with one of these errors.
    pub(crate) fn expected<T>(
        result: Result<T, impl Into<std::io::Error>>,
        expected: &[Errno],
    ) -> Self {
        match result.map_err(Into::into) {
            Ok(_) => Self::fails("done"),
            Err(error) => {
                let number = error.raw_os_error().map(Errno::from_raw_os_error);
                Self {
                    holds: number.is_some_and(|number| expected.contains(&number)),
                    evidence: error_name(&error),
                }
            }
        }
    }

    /// Holds if nothing was found.
    pub(crate) fn none(found: &[String]) -> Self {
        match found {
            [] => Self::holds("none"),
            found => Self::fails(found[..found.len().min(MAX_LISTED)].join(", ")),
        }
    }

    /// The layer holds.
    pub(crate) fn holds(evidence: impl Into<String>) -> Self {
        Self {
            holds: true,
            evidence: evidence.into(),
        }
    }

    /// The layer does not hold.
    pub(crate) fn fails(evidence: impl Into<String>) -> Self {
        Self {
            holds: false,
            evidence: evidence.into(),
        }
    }

    /// Holds if all verdicts hold. The evidence is theirs, without duplicates, or that of those that do not hold.
    pub(crate) fn all<const N: usize>(verdicts: [(&str, Self); N]) -> Self {
        let holds = verdicts.iter().all(|(_, verdict)| verdict.holds);
        let mut evidence: Vec<String> = Vec::new();

        for (name, verdict) in verdicts {
            let item = if holds {
                verdict.evidence
            } else if verdict.holds {
                continue;
            } else {
                format!("{name}: {}", verdict.evidence)
            };

            if !evidence.contains(&item) {
                evidence.push(item);
            }
        }

        Self {
            holds,
            evidence: evidence.join(", "),
        }
    }
}

/// Returns the name of an error in the kernel's headers.
fn error_name(error: &std::io::Error) -> String {
    const NAMES: [(Errno, &str); 16] = [
        (Errno::ACCESS, "EACCES"),
        (Errno::AFNOSUPPORT, "EAFNOSUPPORT"),
        (Errno::BADF, "EBADF"),
        (Errno::BUSY, "EBUSY"),
        (Errno::EXIST, "EEXIST"),
        (Errno::FAULT, "EFAULT"),
        (Errno::INVAL, "EINVAL"),
        (Errno::IO, "EIO"),
        (Errno::NODEV, "ENODEV"),
        (Errno::NOENT, "ENOENT"),
        (Errno::NOSYS, "ENOSYS"),
        (Errno::NOTDIR, "ENOTDIR"),
        (Errno::NXIO, "ENXIO"),
        (Errno::PERM, "EPERM"),
        (Errno::ROFS, "EROFS"),
        (Errno::SRCH, "ESRCH"),
    ];

    let number = error.raw_os_error().unwrap_or_default();
    let entry = NAMES
        .iter()
        .find(|(errno, _)| errno.raw_os_error() == number);

    entry.map_or_else(|| format!("error {number}"), |(_, name)| (*name).to_owned())
}
