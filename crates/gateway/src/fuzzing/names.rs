use std::sync::Arc;
use std::time::Duration;

use hickory_proto::op::{Message, MessageType};

use super::guest::LINK;
use super::play;
use super::runtime::wait_for;
use crate::dns::NameServer;

thread_local! {
    /// One server for all queries, so that its memory must be bounded.
    static SERVER: Arc<NameServer> = play::context().name_server.clone();
}

/// Maximum length of an answer over UDP, in bytes.
const MAX_UDP_BYTES: usize = 1232;

/// Sends a query. The first byte says whether it is over TCP.
pub(super) fn ask(bytes: &[u8]) {
    let Some((over_tcp, question)) = bytes.split_first() else {
        return;
    };

    let over_tcp = over_tcp % 2 == 1;

    // Time passes between queries, so that the rate allows them.
    let server = SERVER.with(Arc::clone);
    let answer = wait_for(async {
        tokio::time::advance(Duration::from_secs(1)).await;
        server.answer(question, over_tcp).await
    });

    let Some(answer) = answer else {
        return;
    };

    assert!(
        over_tcp || answer.len() <= MAX_UDP_BYTES,
        "{} bytes",
        answer.len()
    );

    // The answer must be valid, match the query, and contain only the gateway's addresses.
    let message = Message::from_vec(&answer).expect("a valid answer");
    let head = &message.metadata;
    assert_eq!(head.id.to_be_bytes(), question[..2]);
    assert_eq!(head.message_type, MessageType::Response);
    let addresses = message
        .answers
        .iter()
        .filter_map(|record| record.data.ip_addr());

    for address in addresses {
        assert!(
            LINK.gateway.has(address),
            "no name server can be asked, but the answer is {address}"
        );
    }
}
