//! The JSON that callers send and get.
//!
//! Here are types, their schemas and their conversion into the engine's requests. What is done with them is in
//! `service`.

pub(crate) mod requests;
pub(crate) mod responses;
pub(crate) mod timestamp;
mod whole_number;
