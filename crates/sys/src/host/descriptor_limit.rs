//! How many descriptors this process may have.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// More descriptors than any server needs. Some programs that this process starts close all numbers up to the limit, which
/// would take long with the billion that some hosts allow.
const MAX_DESCRIPTORS: u64 = 524_288;

/// Raises the soft limit of descriptors to the hard one, or to 524,288 if that is higher, and returns it.
///
/// The soft limit is 1,024 on most hosts for programs that use `select`, which this process does not.
#[must_use]
pub fn raise_descriptor_limit() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let soft = limit.current.unwrap_or(MAX_DESCRIPTORS);
    let wanted = limit
        .maximum
        .unwrap_or(MAX_DESCRIPTORS)
        .min(MAX_DESCRIPTORS);
    if wanted <= soft {
        return soft;
    }

    let raised = Rlimit {
        current: Some(wanted),
        maximum: limit.maximum,
    };
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) => wanted,
        Err(_) => soft,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_soft_limit_becomes_the_hard_one() {
        let hard = getrlimit(Resource::Nofile).maximum;
        let low = Rlimit {
            current: Some(64),
            maximum: hard,
        };
        setrlimit(Resource::Nofile, low).unwrap();

        let raised = raise_descriptor_limit();
        let limit = getrlimit(Resource::Nofile);
        assert_eq!(limit.current, Some(raised));
        assert_eq!(limit.maximum, hard);
        assert_eq!(raised, hard.unwrap_or(u64::MAX).min(MAX_DESCRIPTORS));
        assert_eq!(raise_descriptor_limit(), raised);
    }
}
