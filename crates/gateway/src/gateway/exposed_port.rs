//! Connections from this host to an exposed port of the guest.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::events::{Event, Log, NetworkAction};
use crate::flow::relay_streams;
use crate::metering::{Budget, ByteCounter, ConnectionBudget, ConnectionsExhausted, MeteredStream};
use crate::stack::{GuestStream, Stack};

/// Maximum number of concurrent connections to one exposed port.
const MAX_INBOUND_CONNECTIONS: usize = 128;

/// Deadline for the guest to answer a new connection.
const GUEST_ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Pause after a failed accept.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(50);

/// Forwards connections that `listener` accepts to a port of the guest.
pub(super) async fn serve_exposed_port(
    stack: Stack,
    log: Arc<Log>,
    listener: TcpListener,
    port: u16,
    connections: ConnectionBudget,
) {
    // The listener counts, too.
    let _slot = match connections.open_one() {
        Ok(slot) => slot,
        Err(error) => return record_full(&log, port, error),
    };

    let mut tasks = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept(), if tasks.len() < MAX_INBOUND_CONNECTIONS => accepted,
            Some(_) = tasks.join_next() => continue,
        };
        match accepted {
            Ok((client, _)) => {
                let slot = match connections.open_one() {
                    Ok(slot) => slot,
                    Err(error) => {
                        record_full(&log, port, error);
                        continue;
                    }
                };

                let (stack, log) = (stack.clone(), log.clone());
                tasks.spawn(async move {
                    serve_client(&stack, &log, client, port).await;
                    drop(slot);
                });
            }
            // This process is out of descriptors, or the client is gone. Later connections may succeed.
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection to an exposed port");
                tokio::time::sleep(ACCEPT_RETRY_DELAY).await;
            }
        }
    }
}

/// Records that a client of this host is not served.
fn record_full(log: &Log, port: u16, error: ConnectionsExhausted) {
    let event = Event::failed(
        NetworkAction::Inbound,
        "connection_budget",
        error.to_string(),
    );
    log.record(Event {
        port: Some(port),
        ..event
    });
}

async fn serve_client(stack: &Stack, log: &Log, client: TcpStream, port: u16) {
    let to = SocketAddr::new(stack.link().guest.v4.into(), port);
    let connected = tokio::time::timeout(GUEST_ANSWER_TIMEOUT, stack.connect(to)).await;
    let event = match connected {
        Ok(Ok(guest)) => relay(client, guest).await,
        Ok(Err(error)) => Event::failed(NetworkAction::Inbound, "not_served", error.to_string()),
        Err(_) => Event::failed(
            NetworkAction::Inbound,
            "not_served",
            format!("the guest did not answer within {GUEST_ANSWER_TIMEOUT:?}"),
        ),
    };
    log.record(Event {
        port: Some(port),
        ..event
    });
}

/// Forwards bytes between a client of this host and the guest. The policy's byte limits do not apply here.
async fn relay(client: TcpStream, mut guest: GuestStream) -> Event {
    let _ = client.set_nodelay(true);
    let counter = Arc::<ByteCounter>::default();
    let mut client = MeteredStream::new(client, Arc::new(Budget::unlimited()), counter.clone());

    let message = if relay_streams(&mut guest, &mut client).await {
        "a client on this host used the exposed port"
    } else {
        "a client on this host used the exposed port; one side broke off the connection"
    };

    let (bytes_up, bytes_down) = counter.totals();
    Event {
        bytes_up,
        bytes_down,
        ..Event::new(NetworkAction::Inbound, true, "exposed", message.into())
    }
}
