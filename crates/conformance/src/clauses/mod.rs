//! The clauses, one module for each section of the specification. A check talks to the agent as any client would, and
//! knows nothing of how the agent works.

mod framing;
mod versions;
mod concurrency;
mod output;
mod exec;
mod input;
mod spawn;
mod once;
mod files;
mod contexts;
mod guests;
mod errors;
mod limits;
mod responses;
mod lab;

pub use lab::Clause;
pub(crate) use lab::{Agent, Kind, Lab, greet};

/// All clauses, in the order of the specification.
#[must_use]
pub fn clauses() -> Vec<&'static Clause> {
    let families = [
        framing::CLAUSES,
        responses::CLAUSES,
        versions::CLAUSES,
        concurrency::CLAUSES,
        output::CLAUSES,
        exec::CLAUSES,
        input::CLAUSES,
        spawn::CLAUSES,
        once::CLAUSES,
        files::CLAUSES,
        contexts::CLAUSES,
        guests::CLAUSES,
        errors::CLAUSES,
        limits::CLAUSES,
    ];
    families.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_identifier_is_unique() {
        let ids: BTreeSet<_> = clauses().iter().map(|clause| clause.id).collect();
        assert_eq!(ids.len(), clauses().len());
    }
}
