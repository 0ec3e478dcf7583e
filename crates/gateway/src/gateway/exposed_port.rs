use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::events::{Event, Log, NetworkAction};
use crate::flow::pass_both_ways;
use crate::metering::{Budget, Count, Metered};
use crate::stack::{GuestStream, Stack};

/// Connections that one exposed port may have at a time.
const INBOUND: usize = 128;

pub(super) async fn expose(stack: Stack, log: Arc<Log>, listener: TcpListener, port: u16) {
    let mut tasks = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept(), if tasks.len() < INBOUND => accepted,
            Some(_) = tasks.join_next() => continue,
        };
        match accepted {
            Ok((client, _)) => {
                let (stack, log) = (stack.clone(), log.clone());
                tasks.spawn(async move { inbound(&stack, &log, client, port).await });
            }
            // Out of descriptors, or a client that has gone: others may come.
            Err(error) => {
                tracing::warn!(%error, "a connection to an exposed port was lost");
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
        }
    }
}

async fn inbound(stack: &Stack, log: &Log, client: TcpStream, port: u16) {
    /// How long a guest may take to answer.
    const ANSWER: std::time::Duration = std::time::Duration::from_secs(10);
    let to = SocketAddr::new(stack.link().guest.v4.into(), port);
    let opened = tokio::time::timeout(ANSWER, stack.connect(to)).await;
    let why = match opened {
        Ok(Ok(guest)) => {
            let event = exchange(client, guest).await;
            return log.add(Event {
                port: Some(port),
                ..event
            });
        }
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("the guest does not answer within {ANSWER:?}"),
    };
    log.add(Event {
        port: Some(port),
        ..Event::failed(NetworkAction::Inbound, "not_served", why)
    });
}

/// Passes on what a client of this host and the guest say. Who exposes a port sets it no limits.
async fn exchange(client: TcpStream, mut guest: GuestStream) -> Event {
    let _ = client.set_nodelay(true);
    let count = Arc::<Count>::default();
    let mut client = Metered::new(client, Arc::new(Budget::unlimited()), count.clone());
    let message = match pass_both_ways(&mut guest, &mut client).await {
        true => "a client of this host used the exposed port",
        false => "a client of this host used the exposed port, until one side broke off",
    };
    let (bytes_up, bytes_down) = count.read();
    Event {
        bytes_up,
        bytes_down,
        ..Event::new(NetworkAction::Inbound, true, "exposed", message.into())
    }
}
