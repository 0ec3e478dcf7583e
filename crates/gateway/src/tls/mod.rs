//! TLS to its end and on again: the guest speaks with us under its sandbox's own authority, and we
//! speak with the server under the authorities that this host trusts.

mod authority;
mod client_hello;
mod parameters;
mod terminate;
mod trust;

#[cfg(test)]
pub(crate) mod tests;

pub(crate) use authority::{Authority, AuthorityError};
pub(crate) use client_hello::{SNIFF_BYTES, Sniffed, dns_name, sniff};
pub(crate) use terminate::terminate;
pub(crate) use trust::Trust;
