//! Compares two parsers of a `ClientHello`.

use rustls::server::Acceptor;

use crate::tls::{SNIFF_BYTES, SniffResult, sniff};

/// The first byte says where the rest is cut: the whole and the part must give the same result.
pub(super) fn read(bytes: &[u8]) {
    let Some((cut, bytes)) = bytes.split_first() else {
        return;
    };

    let whole = sniff(bytes);
    assert!(whole != SniffResult::Incomplete || bytes.len() < SNIFF_BYTES);
    let partial = sniff(&bytes[..bytes.len() * usize::from(*cut) / 256]);
    assert!(
        partial == SniffResult::Incomplete || partial == whole,
        "{partial:?}, {whole:?}"
    );

    if let SniffResult::Tls(hello) = whole
        && let Some(name) = hello.server_name
    {
        let other = rustls_server_name(bytes);
        assert!(other.is_none_or(|other| other.to_ascii_lowercase() == name));
    }
}

/// Returns the name that rustls finds; `None` if it finds no complete message, or none that it accepts.
fn rustls_server_name(mut bytes: &[u8]) -> Option<String> {
    let mut acceptor = Acceptor::default();
    while !bytes.is_empty() {
        acceptor.read_tls(&mut bytes).ok()?;
        if let Some(accepted) = acceptor.accept().ok()? {
            return accepted.client_hello().server_name().map(str::to_owned);
        }
    }

    None
}
