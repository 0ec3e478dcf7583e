//! A secret reaches its host, and never the guest.

use bytes::Bytes;
use hyper::header::HeaderName;

use super::upgrades::{AGREE, ASK};
use super::*;
use crate::secret::{Secret, SecretText};
use crate::tls::{Authority, terminate};

const VALUE: &str = "sk-live-0123456789";

fn rig(host: &str, for_host: &str) -> (Rig, String) {
    let (secrets, placeholder) = secrets(for_host);
    (Rig::new(Scheme::Tls(host.to_owned()), secrets), placeholder)
}

fn secrets(host: &str) -> (Secrets, String) {
    let value = SecretText::new(VALUE.to_owned()).unwrap();
    let header = vec![HeaderName::from_static("authorization")];
    let secret = Secret::new("key".to_owned(), value, vec![host.to_owned()], header).unwrap();
    let placeholder = secret.placeholder().to_owned();
    (Secrets::new(vec![secret]), placeholder)
}

fn ask(placeholder: &str) -> String {
    format!(
        "GET / HTTP/1.1\r\nHost: example.com\r\nAuthorization: Bearer {placeholder}\r\nAccept-Encoding: br\r\n\r\n"
    )
}

#[tokio::test]
async fn an_echo_is_redacted_wherever_it_is_split() {
    for cut in 1..VALUE.len() {
        let (mut rig, placeholder) = rig("example.com", "example.com");
        rig.send(&ask(&placeholder)).await;
        let mut server = rig.server().await;
        let forwarded = head(&mut server).await;
        assert!(
            forwarded.contains(&format!("authorization: Bearer {VALUE}\r\n")),
            "{forwarded}"
        );
        assert!(forwarded.contains("accept-encoding: identity\r\n"));
        let (one, two) = VALUE.split_at(cut);
        say(
            &mut server,
            &format!("HTTP/1.1 200 OK\r\nX-Echo: {VALUE}\r\nContent-Length: 22\r\n\r\nA {one}"),
        )
        .await;

        let mut received = head(&mut rig.guest).await;
        say(&mut server, &format!("{two} B")).await;
        let mut body = vec![0; 22];
        rig.guest.read_exact(&mut body).await.unwrap();
        received += std::str::from_utf8(&body).unwrap();
        assert!(
            !received.contains(VALUE)
                && received.contains("\r\n\r\nA ")
                && received.ends_with(" B"),
            "{received}"
        );
        drop((server, rig.guest));
        rig.proxy.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn chunks_are_redacted_to_the_end() {
    let (mut rig, placeholder) = rig("example.com", "example.com");
    rig.send(&ask(&placeholder)).await;
    let mut server = rig.server().await;
    head(&mut server).await;
    let (one, two) = VALUE.split_at(5);
    say(
        &mut server,
        &format!(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n\
             5\r\n{one}\r\nd\r\n{two}\r\n4\r\nsk-l\r\n0\r\nx-end: {VALUE}\r\n\r\n"
        ),
    )
    .await;

    let received = rest(&mut rig.guest).await;
    assert!(
        !received.contains(two) && received.ends_with("4\r\nsk-l\r\n0\r\n\r\n"),
        "{received}"
    );
}

#[tokio::test]
async fn a_placeholder_for_another_host_is_refused() {
    let (mut rig, placeholder) = rig("example.com", "other.test");
    rig.send(&ask(&placeholder)).await;
    let received = last(&mut rig.guest).await;
    assert!(
        received.starts_with("HTTP/1.1 403 ")
            && received.contains("x-fumehood-denied: secret_elsewhere\r\n"),
        "{received}"
    );

    rig.assert_no_server_contacted();
}

#[tokio::test]
async fn plain_http_and_bodies_get_no_value() {
    let (secrets, placeholder) = secrets("example.com");
    let mut rig = Rig::new(Scheme::Plain, secrets);
    rig.send(&ask(&placeholder)).await;
    assert!(head(&mut rig.server().await).await.contains(&placeholder));
    let (secrets, placeholder) = self::secrets("example.com");
    let mut rig = Rig::new(Scheme::Tls("example.com".to_owned()), secrets);
    rig.send(&format!(
        "POST /{placeholder} HTTP/1.1\r\nHost: example.com\r\nX: {placeholder}\r\nContent-Length: 48\r\n\r\n{placeholder}"
    ))
    .await;

    let mut server = rig.server().await;
    let forwarded = head(&mut server).await;
    assert_eq!(forwarded.matches(&placeholder).count(), 2, "{forwarded}");
    expect(&mut server, &placeholder).await;
}

#[tokio::test]
async fn websocket_is_redacted_on_the_way_down() {
    let (mut rig, _) = rig("example.com", "example.com");
    rig.send(ASK).await;
    let mut server = rig.server().await;
    assert!(!head(&mut server).await.contains("deflate"));
    say(&mut server, AGREE).await;
    head(&mut rig.guest).await;
    let (one, two) = VALUE.split_at(7);
    say(&mut server, &format!("<{one}")).await;
    expect(&mut rig.guest, "<").await;
    say(&mut server, &format!("{two}>")).await;
    drop(server);
    let received = rest(&mut rig.guest).await;
    assert!(
        received.len() == VALUE.len() + 1 && !received.contains(VALUE) && received.ends_with('>'),
        "{received}"
    );
}

/// Returns the answer that a guest receives through TLS on both sides from a server of `authority`.
async fn through(authority: &Authority, trusted: &Authority) -> String {
    let sandbox = Authority::new().unwrap();
    let (asks, mut servers) = mpsc::unbounded_channel();
    let trust = crate::tls::tests::trust_in(trusted);
    let connect: Connector = Box::new(move || {
        let (near, far) = tokio::io::duplex(64 * 1024);
        let _ = asks.send(far);
        let trust = trust.clone();
        Box::pin(async move {
            let tls = trust.connect(near, "example.com").await?;
            Ok(Box::new(tls) as Box<dyn Stream>)
        })
    });

    let (secrets, placeholder) = secrets("example.com");
    let recorder = Arc::new(Recorder::default());
    let proxy = Proxy {
        scheme: Scheme::Tls("example.com".to_owned()),
        filter: Arc::clone(&recorder) as Arc<dyn RequestFilter>,
        observer: recorder,
        secrets: Arc::new(secrets),
        answer_timeout: ANSWER_TIMEOUT,
        connect,
    };

    let (guest, near) = tokio::io::duplex(64 * 1024);
    let client = async {
        let trust = crate::tls::tests::trust_in(&sandbox);
        let mut tls = trust.connect(guest, "example.com").await.unwrap();
        tls.write_all(ask(&placeholder).as_bytes()).await.unwrap();
        let mut received = String::new();
        tls.read_to_string(&mut received).await.unwrap();
        received
    };

    let gateway = async {
        let tls = terminate(near, Bytes::new(), "example.com", &sandbox).await;
        proxy.serve(tls.unwrap()).await.unwrap();
    };

    let server = async {
        let far: DuplexStream = servers.recv().await.unwrap();
        if let Ok(mut tls) = terminate(far, Bytes::new(), "example.com", authority).await {
            let mut forwarded = vec![0; 4096];
            let length = tls.read(&mut forwarded).await.unwrap();
            let forwarded = std::str::from_utf8(&forwarded[..length]).unwrap();
            assert!(forwarded.contains(VALUE) && !forwarded.contains(&placeholder));
            let answer = format!("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nyou sent {VALUE}");
            tls.write_all(answer.as_bytes()).await.unwrap();
            tls.shutdown().await.unwrap();
        }
    };

    tokio::join!(client, gateway, server).0
}

#[tokio::test]
async fn tls_is_terminated_and_opened_again() {
    let public = Authority::new().unwrap();
    let received = through(&public, &public).await;
    assert!(received.starts_with("HTTP/1.1 200 OK\r\n"), "{received}");
    assert!(
        received.contains("you sent ") && !received.contains(VALUE),
        "{received}"
    );
}

#[tokio::test]
async fn an_untrusted_server_receives_nothing() {
    let (stranger, public) = (Authority::new().unwrap(), Authority::new().unwrap());
    let received = through(&stranger, &public).await;
    assert!(
        received.starts_with("HTTP/1.1 502 Bad Gateway\r\n"),
        "{received}"
    );

    assert!(
        received.contains("certificate is not trusted"),
        "{received}"
    );
}
