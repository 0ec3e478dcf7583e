use std::sync::Arc;
use std::time::Duration;

use hickory_proto::op::{Message, MessageType};

use super::guest::LINK;
use super::play;
use super::runtime::wait_for;
use crate::dns::NameServer;

thread_local! {
    /// One for all questions: what it remembers must not grow without end.
    static SERVER: Arc<NameServer> = play::world().names.clone();
}

/// The longest answer over UDP, in bytes.
const LONGEST: usize = 1232;

/// The first byte says whether by TCP.
pub(super) fn ask(bytes: &[u8]) {
    let Some((by_tcp, question)) = bytes.split_first() else {
        return;
    };
    let by_tcp = by_tcp % 2 == 1;
    let server = SERVER.with(Arc::clone);
    let answer = wait_for(async {
        tokio::time::advance(Duration::from_secs(1)).await;
        server.answer(question, by_tcp).await
    });
    let Some(answer) = answer else {
        return;
    };
    assert!(by_tcp || answer.len() <= LONGEST, "{} bytes", answer.len());
    let message = Message::from_vec(&answer).expect("an answer that can be read");
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
            "nobody can be asked for {address}"
        );
    }
}
