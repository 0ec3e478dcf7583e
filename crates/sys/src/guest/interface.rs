use std::io;
use std::net::IpAddr;

use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netdevice, recv, send,
    socket_with,
};

/// An address of an interface, with its network and gateway.
#[derive(Debug, Clone, Copy)]
pub struct Address {
    /// The address of the interface.
    pub own: IpAddr,
    /// The prefix length of its network, in bits.
    pub prefix: u8,
    /// The gateway for all other destinations: an address of the same family and network.
    pub gateway: IpAddr,
}

/// Enables an Ethernet interface, assigns its addresses, and routes everything through their gateways, all of
/// which permanently have this Ethernet address. The interface gets no link-local address, and the kernel does
/// not check for duplicate addresses.
///
/// # Errors
/// The error of the first request that the kernel rejects.
pub fn interface_up(name: &str, addresses: &[Address], gateway: [u8; 6]) -> io::Result<()> {
    let kernel = socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        // NETLINK_ROUTE is number 0, which is the default.
        None,
    )?;
    let index = netdevice::name_to_index(&kernel, name)?;

    let mut requests = Requests::default();
    requests.add_link(index);
    for address in addresses {
        requests.add_address(index, address);
        requests.add_neighbour(index, address.gateway, gateway);
        requests.add_default_route(index, address.gateway);
    }

    // The kernel acknowledges each request; one answer may contain several acknowledgements.
    send(&kernel, &requests.bytes, SendFlags::empty())?;
    let mut answer = [0; 4096];
    let mut missing = requests.count;
    while missing > 0 {
        let (length, _) = recv(&kernel, &mut answer[..], RecvFlags::empty())?;
        missing = missing.saturating_sub(count_acknowledged(&answer[..length])?);
    }

    Ok(())
}

/// The size of a message header, in bytes.
const HEADER_BYTES: usize = 16;

/// Returns the number of requests that the kernel acknowledges, or the first error.
fn count_acknowledged(mut answers: &[u8]) -> io::Result<u32> {
    let malformed = || io::Error::other("malformed rtnetlink answer from the kernel");
    let mut count = 0;
    while !answers.is_empty() {
        let field = |at: usize| answers.get(at..at + 4)?.try_into().ok();
        let length = field(0).map(u32::from_ne_bytes).ok_or_else(malformed)? as usize;
        // An acknowledgement contains a negated error number, or 0 for success.
        let error = field(HEADER_BYTES)
            .map(i32::from_ne_bytes)
            .ok_or_else(malformed)?;
        if error != 0 {
            return Err(io::Error::from_raw_os_error(-error));
        }

        count += 1;
        let next = length.max(HEADER_BYTES).next_multiple_of(4);
        answers = answers.get(next..).unwrap_or_default();
    }

    Ok(count)
}

/// A batch of requests in the format of `rtnetlink(7)`.
#[derive(Default)]
struct Requests {
    bytes: Vec<u8>,
    count: u32,
}

impl Requests {
    /// Adds a request: a fixed part, followed by attributes.
    fn add(&mut self, kind: u16, fixed: &[u8], attributes: &[(u16, &[u8])]) {
        let flags = libc::NLM_F_REQUEST | libc::NLM_F_ACK | libc::NLM_F_CREATE;
        let mut body = fixed.to_vec();

        for (number, value) in attributes {
            body.extend(encode_attribute(*number, value));
        }

        self.count += 1;
        let length = u32::try_from(HEADER_BYTES + body.len()).unwrap_or(u32::MAX);
        self.bytes.extend(length.to_ne_bytes());
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend(narrow(flags).to_ne_bytes());
        self.bytes.extend(self.count.to_ne_bytes());
        self.bytes.extend(0_u32.to_ne_bytes());
        self.bytes.extend(body);
    }

    /// Enables the interface. First, it is configured not to generate a link-local address, which it would
    /// announce.
    fn add_link(&mut self, index: u32) {
        const IFLA_INET6_ADDR_GEN_MODE: u16 = 8;
        const IN6_ADDR_GEN_MODE_NONE: u8 = 1;
        let link = |flags: libc::c_int| {
            let flags = flags.cast_unsigned().to_ne_bytes();
            [&[0; 4][..], &index.to_ne_bytes(), &flags, &flags].concat()
        };

        let mode = encode_attribute(IFLA_INET6_ADDR_GEN_MODE, &[IN6_ADDR_GEN_MODE_NONE]);
        let of_ipv6 = encode_attribute(narrow(libc::AF_INET6), &mode);
        self.add(
            libc::RTM_NEWLINK,
            &link(0),
            &[(libc::IFLA_AF_SPEC, &of_ipv6)],
        );

        self.add(libc::RTM_NEWLINK, &link(libc::IFF_UP), &[]);
    }

    fn add_address(&mut self, index: u32, address: &Address) {
        const NO_DUPLICATE_DETECTION: u8 = 0x02;
        let (family, own) = octets(address.own);
        let scope = libc::RT_SCOPE_UNIVERSE;
        let head = [family, address.prefix, NO_DUPLICATE_DETECTION, scope];

        let fixed = [head, index.to_ne_bytes()].concat();
        let attributes = [(libc::IFA_LOCAL, &own[..]), (libc::IFA_ADDRESS, &own)];
        self.add(libc::RTM_NEWADDR, &fixed, &attributes);
    }

    /// Adds a permanent neighbour: the kernel never resolves its address.
    fn add_neighbour(&mut self, index: u32, address: IpAddr, ethernet: [u8; 6]) {
        let (family, address) = octets(address);
        let state = [libc::NUD_PERMANENT.to_ne_bytes(), [0, 0]].concat();
        let fixed = [&[family, 0, 0, 0][..], &index.to_ne_bytes(), &state].concat();
        let attributes = [(libc::NDA_DST, &address[..]), (libc::NDA_LLADDR, &ethernet)];
        self.add(libc::RTM_NEWNEIGH, &fixed, &attributes);
    }

    fn add_default_route(&mut self, index: u32, gateway: IpAddr) {
        let (family, gateway) = octets(gateway);
        let (table, protocol) = (libc::RT_TABLE_MAIN, libc::RTPROT_BOOT);
        let (scope, kind) = (libc::RT_SCOPE_UNIVERSE, libc::RTN_UNICAST);
        let fixed = [family, 0, 0, 0, table, protocol, scope, kind, 0, 0, 0, 0];
        let index = index.to_ne_bytes();
        let attributes = [(libc::RTA_GATEWAY, &gateway[..]), (libc::RTA_OIF, &index)];
        self.add(libc::RTM_NEWROUTE, &fixed, &attributes);
    }
}

/// Encodes an attribute, padded to a multiple of 4 bytes.
fn encode_attribute(number: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    let mut bytes = [length.to_ne_bytes(), number.to_ne_bytes()].concat();
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// Returns the number of the address family, and the bytes of the address.
fn octets(address: IpAddr) -> (u8, Vec<u8>) {
    let family = |number: libc::c_int| u8::try_from(number).unwrap_or_default();
    match address {
        IpAddr::V4(address) => (family(libc::AF_INET), address.octets().to_vec()),
        IpAddr::V6(address) => (family(libc::AF_INET6), address.octets().to_vec()),
    }
}

/// Converts a small constant of the C library to the width of its field in the message.
fn narrow(constant: libc::c_int) -> u16 {
    u16::try_from(constant).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attribute_is_padded() {
        let bytes = encode_attribute(7, &[1, 2, 3, 4, 5]);
        assert_eq!(bytes, [9, 0, 7, 0, 1, 2, 3, 4, 5, 0, 0, 0]);
    }

    #[test]
    fn requests_are_concatenated() {
        let mut requests = Requests::default();
        requests.add_link(3);
        let length = u32::from_ne_bytes(requests.bytes[..4].try_into().unwrap()) as usize;
        let second = &requests.bytes[length..];
        assert_eq!((requests.count, second[0], second.len()), (2, 32, 32));
        assert_eq!(second[8..12], 2_u32.to_ne_bytes());
        assert_eq!(second[20..24], 3_u32.to_ne_bytes());
    }

    #[test]
    fn acknowledgements_are_counted_and_errors_returned() {
        let answer = |error: i32| {
            let mut bytes = 36_u32.to_ne_bytes().to_vec();
            bytes.resize(HEADER_BYTES, 0);
            bytes.extend(error.to_ne_bytes());
            bytes.resize(36, 0);
            bytes
        };

        let both = [answer(0), answer(0)].concat();
        assert_eq!(count_acknowledged(&both).unwrap(), 2);
        let rejected = [answer(0), answer(-libc::EPERM)].concat();
        let error = count_acknowledged(&rejected).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EPERM));
        assert!(count_acknowledged(&[1, 2]).is_err());
    }
}
