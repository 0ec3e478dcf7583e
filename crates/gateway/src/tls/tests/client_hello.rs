use std::sync::Arc;

use proptest::prelude::*;
use rustls::ClientConnection;

use crate::testing::tls_client;
use crate::tls::client_hello::*;

fn hello(name: &'static str, alpn: &[&[u8]]) -> Vec<u8> {
    let config = Arc::new(tls_client(alpn));
    let mut client = ClientConnection::new(config, name.try_into().unwrap()).unwrap();
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).unwrap();
    bytes
}

/// Returns a `ClientHello` with these extensions.
fn client_hello_with(extensions: &[(u16, Vec<u8>)]) -> Vec<u8> {
    let mut list = Vec::new();
    for (kind, content) in extensions {
        list.extend(kind.to_be_bytes());
        list.extend(u16::try_from(content.len()).unwrap().to_be_bytes());
        list.extend(content);
    }

    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.extend([0, 0, 2, 0x13, 1, 1, 0]);
    body.extend(u16::try_from(list.len()).unwrap().to_be_bytes());
    body.extend(list);
    let length = u32::try_from(body.len()).unwrap().to_be_bytes();
    let message = [&[1], &length[1..], &body].concat();

    records(&message, 1 << 14)
}

/// Splits a message into records of `size` bytes.
fn records(message: &[u8], size: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    for part in message.chunks(size) {
        bytes.extend([22, 3, 1]);
        bytes.extend(u16::try_from(part.len()).unwrap().to_be_bytes());
        bytes.extend(part);
    }

    bytes
}

/// Returns the content of the extension `server_name` with these entries.
fn names(entries: &[(u8, &[u8])]) -> Vec<u8> {
    let mut list = Vec::new();
    for (kind, name) in entries {
        list.push(*kind);
        list.extend(u16::try_from(name.len()).unwrap().to_be_bytes());
        list.extend(*name);
    }

    let mut content = u16::try_from(list.len()).unwrap().to_be_bytes().to_vec();
    content.extend(list);
    content
}

fn server_name_of(entries: &[(u8, &[u8])]) -> Option<String> {
    match sniff(&client_hello_with(&[(SERVER_NAME, names(entries))])) {
        SniffResult::Tls(hello) => hello.server_name,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_real_hello_is_read() {
    let expected = ClientHello {
        server_name: Some("api.example.com".to_owned()),
        encrypted: false,
        alpn: vec![b"h2".to_vec(), b"http/1.1".to_vec()],
    };

    let bytes = hello("api.example.com", &[b"h2", b"http/1.1"]);
    assert_eq!(sniff(&bytes), SniffResult::Tls(expected));
}

#[test]
fn an_address_is_not_a_server_name() {
    for bytes in [hello("192.0.2.1", &[]), hello("2001:db8::1", &[])] {
        let SniffResult::Tls(hello) = sniff(&bytes) else {
            panic!("not TLS");
        };
        assert_eq!(hello.server_name, None);
    }

    assert_eq!(server_name_of(&[(0, b"192.0.2.1")]), None);
    assert_eq!(server_name_of(&[(0, b"0x7f000001")]), None);
}

#[test]
fn a_server_name_is_one_valid_dns_name_in_lowercase() {
    assert_eq!(
        server_name_of(&[(0, b"EXAMPLE.com")]).as_deref(),
        Some("example.com")
    );

    for bad in [
        &b""[..],
        b"example.com.",
        b"a b.test",
        b"\xff.test",
        b"example.com\0",
        b"-",
        b"*.test",
    ] {
        assert_eq!(server_name_of(&[(0, bad)]), None, "{bad:?}");
    }

    assert_eq!(server_name_of(&[(0, b"a.test"), (0, b"b.test")]), None);
    assert_eq!(server_name_of(&[(0, b"a.test"), (1, b"b.test")]), None);
    assert_eq!(server_name_of(&[(1, b"a.test")]), None);
    assert_eq!(server_name_of(&[]), None);
}

#[test]
fn a_name_of_253_bytes_is_accepted_and_one_of_254_is_not() {
    let label = "a".repeat(63);
    let name = format!("{label}.{label}.{label}.{}", "a".repeat(61));
    assert_eq!(server_name_of(&[(0, name.as_bytes())]), Some(name.clone()));
    assert_eq!(server_name_of(&[(0, format!("{name}a").as_bytes())]), None);
}

#[test]
fn encrypted_client_hello_is_detected() {
    let bytes = client_hello_with(&[
        (SERVER_NAME, names(&[(0, b"front.test")])),
        (ENCRYPTED_CLIENT_HELLO, vec![0; 40]),
    ]);

    let SniffResult::Tls(hello) = sniff(&bytes) else {
        panic!("not TLS");
    };
    assert!(hello.encrypted);
    assert_eq!(hello.server_name.as_deref(), Some("front.test"));
}

#[test]
fn an_ambiguous_name_does_not_count() {
    let one = names(&[(0, b"a.test")]);
    let two = names(&[(0, b"b.test")]);
    let twice = client_hello_with(&[(SERVER_NAME, one.clone()), (SERVER_NAME, two)]);
    assert_eq!(sniff(&twice), SniffResult::Other);
    let trailing = [&one[..], b"x"].concat();
    let SniffResult::Tls(hello) = sniff(&client_hello_with(&[(SERVER_NAME, trailing)])) else {
        panic!("not TLS");
    };

    assert_eq!(hello.server_name, None);
}

#[test]
fn wrong_lengths_are_not_tls() {
    let good = client_hello_with(&[(SERVER_NAME, names(&[(0, b"a.test")]))]);
    // The length of the extensions is at 5 + 4 + 2 + 32 + 7.
    let mut long = good.clone();
    long[51] += 1;
    assert_eq!(sniff(&long), SniffResult::Other);
    let mut short = good.clone();
    short[51] -= 1;
    assert_eq!(sniff(&short), SniffResult::Other);
    let mut huge = good.clone();
    huge[6] = 1;
    assert_eq!(sniff(&huge), SniffResult::Other);
    let mut empty = good.clone();
    empty[3..5].copy_from_slice(&[0, 0]);
    assert_eq!(sniff(&empty), SniffResult::Other);
    let mut server = good;
    server[5] = 2;
    assert_eq!(sniff(&server), SniffResult::Other);
}

#[test]
fn a_hello_at_the_limit_is_read_and_one_past_it_is_not() {
    let padding = |total: usize| {
        client_hello_with(&[(
            21,
            vec![0; total - client_hello_with(&[(21, Vec::new())]).len()],
        )])
    };

    let fits = padding(SNIFF_BYTES);
    assert_eq!(fits.len(), SNIFF_BYTES);
    assert_eq!(sniff(&fits), SniffResult::Tls(ClientHello::default()));
    assert_eq!(sniff(&fits[..SNIFF_BYTES - 1]), SniffResult::Incomplete);
    let past = padding(SNIFF_BYTES + 1);
    assert_eq!(sniff(&past[..SNIFF_BYTES - 1]), SniffResult::Incomplete);
    assert_eq!(sniff(&past[..SNIFF_BYTES]), SniffResult::Other);
    assert_eq!(sniff(&past), SniffResult::Other);
}

#[test]
fn http_is_recognized() {
    for line in [
        "GET / HTTP/1.1\r\n",
        "OPTIONS * HTTP/1.1\r\n",
        "GET http://example.com/ HTTP/1.1\r\n",
        "GET HTTPS://example.com/ HTTP/1.1\r\n",
        "CONNECT example.com:443 HTTP/1.1\r\n",
        "VERSION-CONTROL /a",
    ] {
        assert_eq!(
            sniff(line.as_bytes()),
            SniffResult::Http { preface: false },
            "{line}"
        );
    }

    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    assert_eq!(sniff(preface), SniffResult::Http { preface: true });
    for part in ["", "G", "GET", "GET ", "GET h", "GET http:", "GET https:/"] {
        assert_eq!(sniff(part.as_bytes()), SniffResult::Incomplete, "{part}");
    }

    for other in [
        "SSH-2.0-Open",
        "EHLO me",
        " GET /",
        "get / HTTP/1.1",
        "*1\r\n",
        "\0",
        "GET\r\n",
    ] {
        assert_eq!(sniff(other.as_bytes()), SniffResult::Other, "{other}");
    }
}

#[test]
fn a_method_at_the_limit_is_http_and_one_past_it_is_not() {
    let line = |length: usize| format!("{} /", "A".repeat(length));
    assert_eq!(
        sniff(line(MAX_METHOD_BYTES).as_bytes()),
        SniffResult::Http { preface: false }
    );

    assert_eq!(
        sniff(line(MAX_METHOD_BYTES + 1).as_bytes()),
        SniffResult::Other
    );

    assert_eq!(
        sniff("A".repeat(MAX_METHOD_BYTES + 1).as_bytes()),
        SniffResult::Other
    );
}

proptest! {
    #[test]
    fn any_bytes_get_a_stable_result(mut bytes in prop::collection::vec(any::<u8>(), 0..300), tls: bool) {
        if tls {
            bytes.splice(0..0, [22, 3, 1, 0, 200, 1, 0, 0, 190]);
        }

        // It must not panic, and a result must not change with more bytes.
        let mut last = SniffResult::Incomplete;
        for end in 0..=bytes.len() {
            let now = sniff(&bytes[..end]);
            prop_assert!(last == SniffResult::Incomplete || last == now, "{last:?} {now:?}");
            last = now;
        }
    }

    #[test]
    fn a_corrupted_hello_gets_a_result(at in 0usize..200, byte: u8) {
        let mut bytes = hello("example.com", &[b"h2"]);
        let at = at % bytes.len();
        bytes[at] = byte;
        if let SniffResult::Tls(hello) = sniff(&bytes) {
            prop_assert!(hello.server_name.is_none_or(|name| name.is_ascii()));
        }
    }

    #[test]
    fn any_split_of_a_hello_is_the_same_hello(size in 1usize..600) {
        let whole = hello("example.com", &[b"http/1.1"]);
        let expected = sniff(&whole);
        prop_assert!(matches!(expected, SniffResult::Tls(_)));
        let split = records(&whole[5..], size);

        for end in 0..split.len() {
            let sniffed = sniff(&split[..end]);
            prop_assert!(sniffed == SniffResult::Incomplete || (size == 1 && sniffed == expected));
        }

        prop_assert_eq!(sniff(&split), expected);
    }
}
