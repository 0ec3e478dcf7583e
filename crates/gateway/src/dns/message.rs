//! DNS messages: the guest's queries, and the answers to them.

use std::net::IpAddr;
use std::time::Duration;

use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, RData, Record, RecordType};

use crate::policy::HostName;

/// Maximum length of an answer over UDP to a client that does not announce a larger one, in bytes.
const MIN_UDP_BYTES: u16 = 512;

/// Maximum length of an answer over UDP to a client that does, in bytes.
const MAX_UDP_BYTES: u16 = 1232;

/// One query of the guest.
#[derive(Debug)]
pub(super) struct DnsQuery {
    id: u16,
    query: Query,
    recursion_desired: bool,
    max_udp_bytes: u16,
}

/// The kind of address that a query asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    V4,
    V6,
}

/// The answer to a query.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum DnsAnswer {
    /// These addresses, with their time to live. The list is empty if the name has no address of this kind.
    Addresses(Vec<IpAddr>, Duration),
    /// The name does not exist (NXDOMAIN).
    NoName,
    /// The name cannot be resolved at the moment (SERVFAIL).
    Failed,
    /// The query is not answered (REFUSED).
    Refused,
}

impl DnsQuery {
    /// Parses a message.
    ///
    /// # Errors
    /// Returns the response to send if the message is not a query for one name; `None` if it deserves no response.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, Option<Vec<u8>>> {
        let message = Message::from_vec(bytes).map_err(|_| None)?;
        let head = &message.metadata;
        if head.message_type != MessageType::Query {
            return Err(None);
        }

        // Other operations, and more or fewer than one question, are answered with an error.
        let reject = |code| {
            let response = Message::error_msg(head.id, head.op_code, code);
            Err(response.to_vec().ok())
        };
        if head.op_code != OpCode::Query {
            return reject(ResponseCode::NotImp);
        }
        let [query] = message.queries.as_slice() else {
            return reject(ResponseCode::FormErr);
        };

        let max_udp_bytes = message.edns.as_ref().map_or(MIN_UDP_BYTES, |edns| {
            edns.max_payload().clamp(MIN_UDP_BYTES, MAX_UDP_BYTES)
        });

        Ok(Self {
            id: head.id,
            query: query.clone(),
            recursion_desired: head.recursion_desired,
            max_udp_bytes,
        })
    }

    /// Returns the name that is queried; `None` if it is not a valid host name.
    pub(super) fn name(&self) -> Option<HostName> {
        self.query.name().to_ascii().parse().ok()
    }

    /// Returns the name as the guest wrote it, for messages.
    pub(super) fn display_name(&self) -> String {
        self.query.name().to_ascii()
    }

    /// Returns the kind of address that is queried; `None` if the query is for other records.
    pub(super) fn family(&self) -> Option<Family> {
        match (self.query.query_class(), self.query.query_type()) {
            (DNSClass::IN, RecordType::A) => Some(Family::V4),
            (DNSClass::IN, RecordType::AAAA) => Some(Family::V6),
            _ => None,
        }
    }

    /// Encodes the answer. Over UDP an answer that is too long is truncated and marked so, and the client repeats the
    /// query over TCP.
    pub(super) fn encode_answer(&self, answer: &DnsAnswer, over_tcp: bool) -> Option<Vec<u8>> {
        let mut message = Message::response(self.id, OpCode::Query);
        message.metadata.recursion_desired = self.recursion_desired;
        message.metadata.recursion_available = true;
        message.metadata.response_code = match answer {
            DnsAnswer::Addresses(..) => ResponseCode::NoError,
            DnsAnswer::NoName => ResponseCode::NXDomain,
            DnsAnswer::Failed => ResponseCode::ServFail,
            DnsAnswer::Refused => ResponseCode::Refused,
        };
        message.add_query(self.query.clone());

        // One record for each address.
        if let DnsAnswer::Addresses(addresses, ttl) = answer {
            let seconds = u32::try_from(ttl.as_secs()).unwrap_or(u32::MAX);
            for address in addresses {
                let data = RData::from(*address);
                let name = self.query.name().clone();
                message.add_answer(Record::from_rdata(name, seconds, data));
            }
        }

        let bytes = message.to_vec().ok()?;
        if over_tcp || bytes.len() <= usize::from(self.max_udp_bytes) {
            Some(bytes)
        } else {
            message.truncate().to_vec().ok()
        }
    }
}
