//! For any bytes of the guest, a server sees no request that was not checked and allowed.

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::header::HOST;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use proptest::prelude::*;

use super::*;

type Reached = Arc<Mutex<Vec<String>>>;

/// A server that records its requests, as another parser understands them.
async fn record_requests(stream: DuplexStream, reached: Reached) {
    let service = service_fn(move |request: Request<Incoming>| {
        let reached = Arc::clone(&reached);
        async move {
            let hosts = request.headers().get_all(HOST).iter();
            let hosts: Vec<_> = hosts.map(|host| host.to_str().unwrap()).collect();
            let line = format!("{} {}{}", request.method(), hosts.join("+"), request.uri());
            reached.lock().unwrap().push(line);
            let _ = request.into_body().collect().await;
            Ok::<_, hyper::Error>(Response::new(Full::new(Bytes::from_static(b"ok"))))
        }
    });

    let connection = http1::Builder::new()
        .header_read_timeout(None)
        .serve_connection(TokioIo::new(stream), service);

    let _ = connection.await;
}

/// Sends all pieces; returns the requests that were checked and those that reached the server.
async fn send_pieces(pieces: &[String]) -> (Vec<String>, Vec<String>) {
    let mut rig = Rig::plain();
    let reached = Reached::default();
    let (mut read, mut write) = tokio::io::split(rig.guest);
    let sending = async move {
        for piece in pieces {
            if write.write_all(piece.as_bytes()).await.is_err() {
                break;
            }
            tokio::task::yield_now().await;
        }

        // Kept open, so that the sent bytes are not discarded: the proxy's deadlines end the connection.
        write
    };

    let reading = async { read.read_to_end(&mut Vec::new()).await };
    let serving = async {
        while let Some(stream) = rig.servers.recv().await {
            record_requests(stream, Arc::clone(&reached)).await;
        }
    };

    let (_, _, (), ended) = tokio::join!(sending, reading, serving, rig.proxy);
    let _ = ended.unwrap();
    let checked = rig.recorder.checked.lock().unwrap().clone();
    let reached = reached.lock().unwrap().clone();

    (checked, reached)
}

fn piece() -> impl Strategy<Value = String> {
    let pieces = [
        "GET /a HTTP/1.1\r\n",
        "POST /b HTTP/1.1\r\n",
        "DELETE / HTTP/1.1\r\n",
        "GET //evil.test/ HTTP/1.1\r\n",
        "GET http://evil.test/ HTTP/1.1\r\n",
        "GET http://example.com/c HTTP/1.1\r\n",
        "POST / HTTP/1.0\r\n",
        "Host: example.com\r\n",
        "Host: example.com\r\n\r\n",
        "Host: evil.test\r\n",
        "Host: evil.test\r\n\r\n",
        "Content-Length: 5\r\n",
        "Content-Length: 0\r\n",
        "Transfer-Encoding: chunked\r\n",
        "Transfer-Encoding: \x0bchunked\r\n",
        "Connection: Host, Content-Length, Transfer-Encoding\r\n",
        "Connection: upgrade\r\nUpgrade: h2c\r\n",
        "Connection: upgrade\r\nUpgrade: websocket\r\n",
        "0\r\n\r\n",
        "5\r\nhello\r\n",
        "5;a=\"\r\n\"\r\nhello\r\n",
        "hello",
        "\r\n",
        "\n",
        "\r",
        " ",
        "GET /d HTTP/1.1\r\nHost: example.com\r\n\r\n",
        "DELETE / HTTP/1.1\r\nHost: evil.test\r\n\r\n",
        "POST /e HTTP/1.1\r\nHost: example.com\r\nTransfer-Encoding: chunked\r\n\r\n",
        "POST /f HTTP/1.1\r\nHost: example.com\r\nContent-Length: 5\r\n\r\n",
    ];

    prop::sample::select(pieces.to_vec()).prop_map(str::to_owned)
}

proptest! {
    #[test]
    fn nothing_reaches_a_server_that_was_not_allowed(
        pieces in prop::collection::vec(piece(), 1..14),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();

        let (checked, reached) = runtime.block_on(send_pieces(&pieces));
        let mut allowed = checked.iter().filter(|request| {
            request.contains(" example.com/") && !request.starts_with("DELETE ")
        });

        for request in &reached {
            prop_assert!(allowed.any(|known| known == request), "{request} not in {checked:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn two_requests_at_once_are_checked_and_reach_the_server() {
    let one = "GET /d HTTP/1.1\r\nHost: example.com\r\n\r\n";
    let two = "POST /f HTTP/1.1\r\nHost: example.com\r\nContent-Length: 5\r\n\r\nhello";
    let (checked, reached) = send_pieces(&[format!("{one}{two}")]).await;
    assert_eq!(reached, ["GET example.com/d", "POST example.com/f"]);
    assert_eq!(checked, reached);
}
