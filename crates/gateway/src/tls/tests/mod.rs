mod client_hello;

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::authority::{Authority, MAX_CACHED_HOSTS};
use super::parameters::{HANDSHAKE_TIMEOUT, HTTP_1_1};
use super::terminate::terminate;
use super::trust::{Trust, TrustError};
use crate::stream::UpstreamError;
use crate::testing::tls_client;

/// Trusts a sandbox's authority, as its guest does.
pub(crate) fn trust_in(authority: &Authority) -> Trust {
    Trust::new([CertificateDer::from_pem_slice(authority.pem().as_bytes()).unwrap()]).unwrap()
}

#[tokio::test]
async fn a_guest_that_trusts_the_authority_speaks_http_1() {
    let authority = Authority::new().unwrap();
    let trust = trust_in(&authority);
    let (guest, mut gateway) = tokio::io::duplex(64 * 1024);
    let client = async {
        let mut tls = trust.connect(guest, "example.com").await.unwrap();
        assert_eq!(tls.get_ref().1.alpn_protocol(), Some(HTTP_1_1));
        tls.write_all(b"ping").await.unwrap();
        tls.shutdown().await.unwrap();
    };

    let server = async {
        let mut first = vec![0; 100];
        gateway.read_exact(&mut first).await.unwrap();
        let tls = terminate(gateway, first.into(), "example.com", &authority).await;
        let mut text = String::new();
        tls.unwrap().read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "ping");
    };

    tokio::join!(client, server);
}

#[tokio::test]
async fn a_server_of_another_name_or_authority_is_untrusted() {
    let authority = Authority::new().unwrap();
    let stranger = Authority::new().unwrap();

    for (trust, host) in [
        (trust_in(&authority), "other.test"),
        (trust_in(&stranger), "example.com"),
    ] {
        let (guest, gateway) = tokio::io::duplex(64 * 1024);
        let (client, server) = tokio::join!(
            trust.connect(guest, host),
            terminate(gateway, Bytes::new(), "example.com", &authority)
        );

        let error = client.unwrap_err();
        assert!(matches!(error, UpstreamError::Untrusted(_)), "{error:?}");
        assert!(server.is_err());
    }
}

#[tokio::test]
async fn a_client_that_only_speaks_http_2_gets_an_alert() {
    let authority = Authority::new().unwrap();
    let (guest, gateway) = tokio::io::duplex(64 * 1024);
    let config = Arc::new(tls_client(&[b"h2"]));
    let client = tokio_rustls::TlsConnector::from(config);
    let (client, server) = tokio::join!(
        client.connect("example.com".try_into().unwrap(), guest),
        terminate(gateway, Bytes::new(), "example.com", &authority)
    );

    let error = client.unwrap_err();
    let error = error.into_inner().unwrap();
    let alert = rustls::AlertDescription::NoApplicationProtocol;
    assert_eq!(
        error.downcast_ref::<rustls::Error>(),
        Some(&rustls::Error::AlertReceived(alert))
    );

    assert!(server.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_stalled_handshake_times_out() {
    let authority = Authority::new().unwrap();
    let (_guest, gateway) = tokio::io::duplex(64);
    let ended = terminate(gateway, Bytes::new(), "example.com", &authority).await;
    assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::TimedOut);
    let (far, _server) = tokio::io::duplex(64 * 1024);
    let ended = trust_in(&authority).connect(far, "example.com").await;
    assert!(matches!(
        ended,
        Err(UpstreamError::TimedOut(HANDSHAKE_TIMEOUT))
    ));
}

#[test]
fn certificates_are_cached_up_to_a_limit() {
    let authority = Authority::new().unwrap();
    let first = authority.server_config("first.test").unwrap();
    assert!(Arc::ptr_eq(
        &first,
        &authority.server_config("first.test").unwrap()
    ));

    for number in 1..MAX_CACHED_HOSTS {
        authority
            .server_config(&format!("{number}.example.com"))
            .unwrap();
    }

    assert!(Arc::ptr_eq(
        &first,
        &authority.server_config("first.test").unwrap()
    ));
    authority.server_config("one-more.test").unwrap();
    assert_eq!(authority.cached_hosts(), MAX_CACHED_HOSTS);
    assert!(!Arc::ptr_eq(
        &first,
        &authority.server_config("first.test").unwrap()
    ));
}

#[test]
fn keys_are_not_shown() {
    let authority = Authority::new().unwrap();
    assert_eq!(format!("{authority:?}"), "Authority(keys redacted)");
    assert!(!authority.pem().contains("PRIVATE"));
}

#[test]
fn trust_without_authorities_fails_with_advice() {
    let error = Trust::new([]).unwrap_err().to_string();
    assert!(error.contains("SSL_CERT_FILE"), "{error}");
    let junk = Trust::new([CertificateDer::from(vec![1, 2, 3])]);
    assert!(matches!(junk, Err(TrustError::NoAuthorities(None))));
}
