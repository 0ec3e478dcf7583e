//! The JSON types that callers send and receive, with their schemas.
//!
//! This folder parses requests and converts them into the engine's. Carrying them out belongs in `service`, and the
//! routes in `http`.

pub(crate) mod object_name;
pub(crate) mod program;
pub(crate) mod requests;
pub(crate) mod responses;
pub(crate) mod sandbox_responses;
pub(crate) mod timeouts;
pub(crate) mod timestamp;
mod whole_number;
