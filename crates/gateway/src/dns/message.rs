use std::net::IpAddr;
use std::time::Duration;

use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, RData, Record, RecordType};

use crate::policy::HostName;

/// The longest answer over UDP to who does not say that it takes more, in bytes.
const SHORT_BYTES: u16 = 512;

/// The longest answer over UDP to who does.
const LONG_BYTES: u16 = 1232;

/// One question of a guest's.
#[derive(Debug)]
pub(super) struct Asked {
    id: u16,
    query: Query,
    recursion_desired: bool,
    most_bytes: u16,
}

/// Which kind of address is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    V4,
    V6,
}

/// What is said.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// These addresses, to be believed this long. None: the name has none of this kind.
    Addresses(Vec<IpAddr>, Duration),
    /// There is no such name.
    NoName,
    /// It is not known now.
    Failed,
    /// This is not answered.
    Refused,
}

impl Asked {
    /// Reads a question.
    ///
    /// # Errors
    /// The answer to what is none; `None`: nothing is to be said.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, Option<Vec<u8>>> {
        let message = Message::from_vec(bytes).map_err(|_| None)?;
        let head = &message.metadata;
        if head.message_type != MessageType::Query {
            return Err(None);
        }
        let refuse = |code| {
            let refusal = Message::error_msg(head.id, head.op_code, code);
            Err(refusal.to_vec().ok())
        };
        if head.op_code != OpCode::Query {
            return refuse(ResponseCode::NotImp);
        }
        let [query] = message.queries.as_slice() else {
            return refuse(ResponseCode::FormErr);
        };
        let most_bytes = message.edns.as_ref().map_or(SHORT_BYTES, |edns| {
            edns.max_payload().clamp(SHORT_BYTES, LONG_BYTES)
        });
        Ok(Self {
            id: head.id,
            query: query.clone(),
            recursion_desired: head.recursion_desired,
            most_bytes,
        })
    }

    /// The name that is asked for; none: it is no host's.
    pub(super) fn name(&self) -> Option<HostName> {
        self.query.name().to_ascii().parse().ok()
    }

    /// As it was written, for a person.
    pub(super) fn text(&self) -> String {
        self.query.name().to_ascii()
    }

    /// What is asked for of it; none: something else than addresses.
    pub(super) fn family(&self) -> Option<Family> {
        match (self.query.query_class(), self.query.query_type()) {
            (DNSClass::IN, RecordType::A) => Some(Family::V4),
            (DNSClass::IN, RecordType::AAAA) => Some(Family::V6),
            _ => None,
        }
    }

    /// The answer as bytes. Over UDP one that is too long says so, and is asked for by TCP.
    pub(super) fn answer(&self, answer: &Answer, by_tcp: bool) -> Option<Vec<u8>> {
        let mut message = Message::response(self.id, OpCode::Query);
        message.metadata.recursion_desired = self.recursion_desired;
        message.metadata.recursion_available = true;
        message.metadata.response_code = match answer {
            Answer::Addresses(..) => ResponseCode::NoError,
            Answer::NoName => ResponseCode::NXDomain,
            Answer::Failed => ResponseCode::ServFail,
            Answer::Refused => ResponseCode::Refused,
        };
        message.add_query(self.query.clone());
        if let Answer::Addresses(addresses, lifetime) = answer {
            let seconds = u32::try_from(lifetime.as_secs()).unwrap_or(u32::MAX);
            for address in addresses {
                let data = RData::from(*address);
                let name = self.query.name().clone();
                message.add_answer(Record::from_rdata(name, seconds, data));
            }
        }
        let bytes = message.to_vec().ok()?;
        match by_tcp || bytes.len() <= usize::from(self.most_bytes) {
            true => Some(bytes),
            false => message.truncate().to_vec().ok(),
        }
    }
}
