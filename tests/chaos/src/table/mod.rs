//! The table of faults, by what they do.

mod kills;
mod stops;

use crate::fault::Fault;

/// Returns all faults.
pub(crate) fn all() -> Vec<Fault> {
    let mut all = kills::faults();
    all.extend(stops::faults());
    all
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_unique() {
        let names: BTreeSet<_> = all().iter().map(|fault| fault.name).collect();
        assert_eq!(names.len(), all().len());
    }
}
