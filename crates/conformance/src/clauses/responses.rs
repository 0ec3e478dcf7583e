//! The fields of each response. All are observed in the responses of the whole run.

use super::lab::Clause;

pub(super) const CLAUSES: &[Clause] = &[
    Clause::observed("RESP-1", 0, "the fields of `pong`"),
    Clause::observed("RESP-2", 1, "the fields of `hello`"),
    Clause::observed(
        "RESP-3",
        0,
        "the fields of `stdout`, `stderr`, `result` and `file`",
    ),
    Clause::observed("RESP-4", 1, "the fields of `data`, and its bytes"),
    Clause::observed("RESP-5", 0, "the fields of `complete`"),
    Clause::observed("RESP-6", 0, "the fields of `error`"),
    Clause::observed("RESP-7", 1, "the fields of `started`"),
    Clause::observed(
        "RESP-8",
        1,
        "the fields of `queued`, `detached`, `done` and `watching`",
    ),
    Clause::observed("RESP-9", 1, "the fields of `credit`"),
    Clause::observed("RESP-10", 1, "the fields of `attached`"),
    Clause::observed("RESP-11", 1, "the fields of `processes`"),
    Clause::observed("RESP-12", 1, "the fields of `entry`"),
    Clause::observed("RESP-13", 1, "the fields of `entries`"),
    Clause::observed("RESP-14", 1, "the fields of `transferred`"),
    Clause::observed("RESP-15", 1, "the fields of `change`"),
    Clause::observed("RESP-16", 1, "the fields of `quiesced`"),
    Clause::observed("RESP-17", 1, "the fields of `refreshed`"),
];
