//! File transfers and directory watches.

mod transfers;
mod watches;
