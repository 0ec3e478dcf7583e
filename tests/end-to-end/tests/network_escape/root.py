# What else root of the guest can send: packets of its own making.
import fcntl

GUEST, CANARY, WEB = '198.18.0.2', '198.51.100.7', '203.0.113.10'
GUEST6, CANARY6, WEB6 = 'fd66:756d:6568::2', '2001:db8:bad::7', '2001:db8::10'


def total(text):
    text += bytes(len(text) % 2)
    words = sum(struct.unpack(f'>{len(text) // 2}H', text))
    while words > 0xffff: words = (words & 0xffff) + (words >> 16)
    return ~words & 0xffff


def v4(to, protocol, payload, source=GUEST, offset=0, options=b''):
    words = 5 + len(options) // 4
    return struct.pack('>BBHHHBBH', 0x40 | words, 0, words * 4 + len(payload), 7, offset, 64, protocol, 0) \
        + socket.inet_aton(source) + socket.inet_aton(to) + options + payload


def v6(to, kind, payload, source=GUEST6):
    return struct.pack('>IHBB', 0x60000000, len(payload), kind, 64) \
        + socket.inet_pton(socket.AF_INET6, source) + socket.inet_pton(socket.AF_INET6, to) + payload


def segment(to, port, flags, payload=MARK, source=GUEST):
    text = struct.pack('>HHIIBBHHH', 41000 + port % 1000, port, 1, 1, 0x50, flags, 65535, 0, 0) + payload
    family = socket.AF_INET6 if ':' in to else socket.AF_INET
    pseudo = socket.inet_pton(family, source) + socket.inet_pton(family, to) + struct.pack('>HH', 6, len(text))
    return text[:16] + struct.pack('>H', total(pseudo + text)) + text[18:]


def datagram(port): return struct.pack('>HHHH', 40000, port, 8 + len(MARK), 0) + MARK


def sends(packet, to):
    def act():
        family = socket.AF_INET6 if ':' in to else socket.AF_INET
        with socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_RAW) as s: return s.sendto(packet, (to, 0)) and 'sent'
    return act


# ICMP, to others and to hosts that are allowed.
for to in [CANARY, WEB, '198.51.100.8']:
    echo = struct.pack('>BBHHH', 8, 0, 0, 7, 1) + MARK
    echo = echo[:2] + struct.pack('>H', total(echo)) + echo[4:]
    report(f'icmp {to}', sends(v4(to, 1, echo), to))
for to in [CANARY6, WEB6]:
    report(f'icmp {to}', sends(v6(to, 58, struct.pack('>BBHHH', 128, 0, 0, 7, 1) + MARK), to))

# Other protocols: what carries packets in packets, and what has ports of its own.
for number in [2, 4, 41, 47, 50, 89, 132, 136, 255]: report(f'protocol {number}', sends(v4(CANARY, number, v4(CANARY, 17, datagram(9))), CANARY))
for kind in [0, 43, 60, 4, 41, 47, 51, 132]:
    rest = bytes([6, 0]) + bytes(6) + segment(CANARY6, 443, 2, source=GUEST6)
    report(f'header {kind}', sends(v6(CANARY6, kind, rest), CANARY6))
    report(f'header {kind}, allowed host', sends(v6(WEB6, kind, rest), WEB6))

# Parts of packets.
for to in [CANARY, WEB]:
    for offset, part in [(0x2000, segment(to, 80, 2)[:24]), (3, segment(to, 80, 2)[24:]), (0x2000, datagram(9)[:16]), (2, MARK)]:
        report(f'fragment {to} {offset}', sends(v4(to, 17 if part in (MARK, datagram(9)[:16]) else 6, part, offset=offset), to))
report('fragment, v6', sends(v6(CANARY6, 44, bytes([17, 0, 0, 1, 0, 0, 0, 7]) + datagram(9)), CANARY6))

# From addresses that are not its own: somebody's, and the gateway's.
for source in ['203.0.113.200', '198.18.0.1']:
    for to in [CANARY, WEB]:
        report(f'from {source} to {to}', sends(v4(to, 6, segment(to, 80, 2, source=source), source=source), to))
        report(f'from {source} to {to}, udp', sends(v4(to, 17, datagram(53), source=source), to))

# Connections of its own making, with data in the first packet; and packets of connections that are none.
report('data in syn', sends(v4('198.51.100.8', 6, segment('198.51.100.8', 443, 2)), '198.51.100.8'))
report('datagram', sends(v4('198.51.100.8', 17, datagram(53)), '198.51.100.8'))
route = bytes([131, 7, 4]) + socket.inet_aton('198.51.100.8') + b'\0'
report('source route', sends(v4('198.51.100.8', 6, segment('198.51.100.8', 22, 2), options=route), '198.51.100.8'))
report('port 0', sends(v4(CANARY, 6, segment(CANARY, 0, 2)), CANARY))
report('short', sends(v4(CANARY, 6, b'\0\x50'), CANARY))
for flags in [0x10, 0x18, 0x12, 0x03, 0x29, 0x00, 0xff, 0x04]:
    report(f'flags {flags}', sends(v4(CANARY, 6, segment(CANARY, 80, flags)), CANARY))

# Another name server in its own settings.
with open('/proc/sys/net/ipv4/tcp_fastopen', 'w') as f: f.write('5')
report('fast open with data', fast_open)
report('loopback by another road', lambda: sends(v4('127.0.0.1', 17, datagram(9)), '127.0.0.1')() and 'sent')


# Last, since nothing goes after it: another address of its own, and another hardware address.
def interface(call, data):
    with socket.socket(type=socket.SOCK_DGRAM) as s: return fcntl.ioctl(s, call, struct.pack('16s', b'eth0') + data)


def other_address():
    interface(0x8916, struct.pack('HH4s8x', socket.AF_INET, 0, socket.inet_aton('203.0.113.200')))
    return udp(CANARY, 9)


def other_hardware():
    interface(0x8924, struct.pack('H6s8x', 1, bytes.fromhex('0266756d6577')))
    return udp(CANARY6, 9)


report('other address', other_address)
report('other hardware', other_hardware)
print('all tried')
