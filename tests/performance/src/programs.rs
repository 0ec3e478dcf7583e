//! The measured programs. No primer contains any of them.

/// The smallest program of each language.
pub(crate) const HELLO: [&str; 3] = ["print('hello')", "console.log('hello')", "echo hello"];

/// Programs of about ten lines, as agents write them.
pub(crate) const TYPICAL: [&str; 3] = [
    "
def is_palindrome(text):
    cleaned = [c for c in text.lower() if c.isalnum()]
    return cleaned == cleaned[::-1]

candidates = ['A man, a plan, a canal: Panama', 'not one', 'Was it a car']
for candidate in candidates:
    verdict = 'yes' if is_palindrome(candidate) else 'no'
    print(f'{candidate[:12]!r:<16} {verdict}')
print(sum(map(is_palindrome, candidates)), 'of', len(candidates))
",
    "
inventory = {'apple': (3, 0.5), 'pear': (0, 0.75), 'fig': (12, 0.2)}
lines = []
total = 0.0
for name, (count, price) in sorted(inventory.items()):
    if not count:
        continue
    total += count * price
    lines.append(f'{name.upper():>8}: {count:3d} x {price:.2f}')
print('\\n'.join(lines))
print('total', round(total, 2), 'most', max(inventory, key=lambda k: inventory[k][0]))
",
    "
import collections
log = '''GET /a 200
POST /b 500
GET /a 404'''
status = collections.Counter()
for line in log.splitlines():
    method, path, code = line.split()
    status[int(code) // 100] += 1
assert sum(status.values()) == 3
for family, count in status.items():
    print(f'{family}xx', '*' * count)
",
];
