//! Simple services at the other end of connections, which reach deep into the stack without decisions.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::stack::{GuestStream, Stack};

/// The ports of the services. On other ports, the gateway decides.
pub(super) const PORTS: [u16; 6] = [7, 9, 19, 1, 2, 3];

/// More than both buffers of a connection hold, in bytes.
const FLOOD_BYTES: usize = 600 * 1024;

pub(super) async fn serve(mut guest: GuestStream) {
    let port = guest.remote().port();
    if port == 1 || !guest.accept().await {
        return;
    }

    match port {
        7 => echo(&mut guest).await,
        9 => {
            let _ = tokio::io::copy(&mut guest, &mut tokio::io::sink()).await;
        }
        19 => {
            let _ = guest.write_all(&vec![b'x'; FLOOD_BYTES]).await;
            let _ = guest.shutdown().await;
        }
        // This service never reads and never ends.
        3 => std::future::pending().await,
        _ => {}
    }
}

async fn echo(guest: &mut GuestStream) {
    let mut piece = [0; 512];
    while let Ok(read @ 1..) = guest.read(&mut piece).await {
        if guest.write_all(&piece[..read]).await.is_err() {
            return;
        }
    }

    let _ = guest.shutdown().await;
}

/// Opens a connection to the guest.
pub(super) async fn inbound(stack: Stack, v6: bool, port: u16) {
    let guest = stack.link().guest;
    let to = if v6 {
        (guest.v6, port).into()
    } else {
        (guest.v4, port).into()
    };

    if let Ok(mut guest) = stack.connect(to).await {
        let _ = guest.write_all(b"GET / HTTP/1.1\r\n\r\n").await;
        echo(&mut guest).await;
    }
}
