use rustls::server::Acceptor;

use crate::tls::{SNIFF_BYTES, Sniffed, sniff};

/// The first byte says where the rest is cut in two; as it came or cut, it must be read in one way.
pub(super) fn read(bytes: &[u8]) {
    let Some((cut, bytes)) = bytes.split_first() else {
        return;
    };
    let whole = sniff(bytes);
    assert!(whole != Sniffed::More || bytes.len() < SNIFF_BYTES);
    let begun = sniff(&bytes[..bytes.len() * usize::from(*cut) / 256]);
    assert!(
        begun == Sniffed::More || begun == whole,
        "{begun:?}, {whole:?}"
    );
    if let Sniffed::Tls(hello) = whole
        && let Some(name) = hello.server_name
    {
        let other = as_rustls_reads(bytes);
        assert!(other.is_none_or(|other| other.to_ascii_lowercase() == name));
    }
}

/// The name that rustls finds; none: it finds no whole message, or none that it takes.
fn as_rustls_reads(mut bytes: &[u8]) -> Option<String> {
    let mut acceptor = Acceptor::default();
    while !bytes.is_empty() {
        acceptor.read_tls(&mut bytes).ok()?;
        if let Some(accepted) = acceptor.accept().ok()? {
            return accepted.client_hello().server_name().map(str::to_owned);
        }
    }
    None
}
