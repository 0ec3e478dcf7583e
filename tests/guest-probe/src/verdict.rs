use rustix::io::Errno;
use serde_json::{Value, json};

/// Something that a program must not be able to do, and how that is tried.
pub(crate) struct Wall {
    pub(crate) name: &'static str,
    pub(crate) tried: &'static str,
    pub(crate) attempt: fn() -> Verdict,
}

impl Wall {
    /// Tries it; the verdict as JSON.
    pub(crate) fn try_it(&self) -> Value {
        let verdict = (self.attempt)();
        json!({
            "wall": self.name,
            "holds": verdict.holds,
            "tried": self.tried,
            "evidence": verdict.evidence,
        })
    }
}

/// What came of an attempt.
pub(crate) struct Verdict {
    holds: bool,
    evidence: String,
}

/// How a kernel says no: it may not, or there is no such call.
const REFUSALS: [Errno; 4] = [Errno::PERM, Errno::ACCESS, Errno::NOSYS, Errno::ROFS];

/// Things that were found and must not be are named up to this many.
const SHOWN: usize = 8;

impl Verdict {
    /// Holds if the kernel said no.
    pub(crate) fn refused<T>(result: Result<T, impl Into<std::io::Error>>) -> Self {
        Self::expected(result, &REFUSALS)
    }

    /// Holds if there is no such thing.
    pub(crate) fn absent<T>(result: Result<T, impl Into<std::io::Error>>) -> Self {
        Self::expected(result, &[Errno::NOENT, Errno::NODEV])
    }

    /// Holds if it failed with one of these.
    pub(crate) fn expected<T>(
        result: Result<T, impl Into<std::io::Error>>,
        expected: &[Errno],
    ) -> Self {
        match result.map_err(Into::into) {
            Ok(_) => Self::falls("done"),
            Err(error) => {
                let number = error.raw_os_error().map(Errno::from_raw_os_error);
                Self {
                    holds: number.is_some_and(|number| expected.contains(&number)),
                    evidence: name(&error),
                }
            }
        }
    }

    /// Holds if none of these was found.
    pub(crate) fn none(found: &[String]) -> Self {
        match found {
            [] => Self::holds("none"),
            found => Self::falls(found[..found.len().min(SHOWN)].join(", ")),
        }
    }

    /// It holds.
    pub(crate) fn holds(evidence: impl Into<String>) -> Self {
        Self {
            holds: true,
            evidence: evidence.into(),
        }
    }

    /// It does not hold.
    pub(crate) fn falls(evidence: impl Into<String>) -> Self {
        Self {
            holds: false,
            evidence: evidence.into(),
        }
    }

    /// Holds if each does: the evidence is theirs, each said once, or that of those which do not hold.
    pub(crate) fn all<const N: usize>(verdicts: [(&str, Self); N]) -> Self {
        let holds = verdicts.iter().all(|(_, verdict)| verdict.holds);
        let mut said: Vec<String> = Vec::new();
        for (what, verdict) in verdicts {
            let evidence = match holds {
                true => verdict.evidence,
                false if verdict.holds => continue,
                false => format!("{what}: {}", verdict.evidence),
            };
            if !said.contains(&evidence) {
                said.push(evidence);
            }
        }
        Self {
            holds,
            evidence: said.join(", "),
        }
    }
}

/// An error as the kernel's headers call it.
pub(crate) fn name(error: &std::io::Error) -> String {
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
    let found = NAMES
        .iter()
        .find(|(errno, _)| errno.raw_os_error() == number);
    found.map_or_else(|| format!("error {number}"), |(_, name)| (*name).to_owned())
}
