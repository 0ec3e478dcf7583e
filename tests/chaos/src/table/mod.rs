//! The table of faults, by what they do.

mod clocks;
mod damage;
mod disks;
mod floods;
mod kills;
mod limits;
mod readers;
mod small_runs;
mod stops;
mod transfers;

use crate::fault::Fault;

/// Returns all faults.
pub(crate) fn all() -> Vec<Fault> {
    [
        kills::faults(),
        stops::faults(),
        readers::faults(),
        floods::faults(),
        limits::faults(),
        damage::faults(),
        disks::faults(),
        clocks::faults(),
        transfers::faults(),
    ]
    .into_iter()
    .flatten()
    .collect()
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
