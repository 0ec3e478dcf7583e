# Run in the interpreter that a template keeps warm, and again in each VM that is kept hot: what it
# imports is there for every program, and what it executes has been translated by the emulator. It
# prints, since printing is what most programs do first. It must leave nothing behind: no threads, no
# files, no cached randomness.
import argparse, base64, bisect, collections, contextlib, copy, csv, dataclasses, datetime, decimal
import enum, fractions, functools, glob, hashlib, heapq, io, itertools, json, math, operator, os
import pathlib, random, re, shutil, statistics, string, struct, subprocess, sys, tempfile, textwrap
import threading, time, traceback, typing, urllib.parse, uuid


@dataclasses.dataclass
class Point:
    x: int
    y: float = 0.5

    def __add__(self, other):
        return Point(self.x + other.x, self.y + other.y)


class Stack:
    def __init__(self, items=()):
        self.items = list(items)

    def __len__(self):
        return len(self.items)

    def __iter__(self):
        return iter(self.items)


class Base:
    @property
    def name(self):
        return type(self).__name__.lower()

    @classmethod
    def make(cls, *args, **keywords):
        return cls()


class Derived(Base):
    def name_and(self, more="x", /, *, times=1):
        return super().name + more * times


def fibonacci(n):
    return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)


def generate(n):
    for i in range(n):
        got = yield i * i
        if got:
            return


@functools.lru_cache
def squares(n):
    return [i * i for i in range(n) if i % 2]


def work():
    words = "the quick brown fox jumps over the lazy dog".split()
    counts = collections.Counter(len(word) for word in words)
    table = {word: index for index, word in enumerate(words)}
    total = 0
    for index, (word, length) in enumerate(zip(words, map(len, words))):
        total += index * length if word > "m" else -length
    while total > 10:
        total //= 2
    first, *rest, last = sorted(words, key=lambda word: (len(word), word), reverse=True)
    text = f"{first!r:>10} {total:05d} {math.pi:.3f} {last} {len(rest)} {counts.most_common(2)}"
    data = json.loads(json.dumps({"a": [1, 2.5, None, True], "b": {"c": text}}, indent=1, sort_keys=True))
    matches = re.findall(r"(\w+)@(\w+)\.com", "ann@example.com, bob@test.com")
    replaced = re.sub(r"\s+", "-", " a  b c ").strip("-").title().encode().decode("utf-8")
    point = Point(1, 2.0) + Point(3)
    matrix = [[i * j for j in range(4)] for i in range(4)]
    transposed = list(map(list, zip(*matrix)))
    primes = [n for n in range(2, 60) if all(n % d for d in range(2, int(n**0.5) + 1))]
    big = 2**100 % 97 + (1 << 20) - 7 // 2 + 0x1F & 0xFF | 3 ^ 1
    ratio = decimal.Decimal("1.10") + decimal.Decimal(2) / 3
    half = fractions.Fraction(1, 3) + fractions.Fraction(1, 6)
    when = datetime.datetime(2026, 1, 2, 3, 4, 5) + datetime.timedelta(days=1, hours=2)
    dated = when.strftime("%Y-%m-%d %H:%M"), when.isoformat(), datetime.date(2026, 1, 1).weekday()
    digest = hashlib.sha256(text.encode()).hexdigest(), hashlib.md5(b"x").hexdigest()
    encoded = base64.b64encode(bytes(range(16))).decode(), struct.pack("<IH", 1, 2).hex()
    grouped = {k: list(g) for k, g in itertools.groupby(sorted(words, key=len), key=len)}
    heap = [5, 1, 4]
    heapq.heapify(heap)
    heapq.heappush(heap, 2)
    smallest = heapq.heappop(heap), bisect.bisect([1, 3, 5], 4), functools.reduce(operator.add, heap)
    chained = collections.deque([1, 2], maxlen=3), collections.defaultdict(list), collections.OrderedDict(a=1)
    chained[1]["k"].append(3)
    numbers = [0.5, 1.5, 4.0]
    stats = statistics.mean(numbers), statistics.median(numbers), round(statistics.stdev(numbers), 3)
    joined = ", ".join(str(number) for number in set(primes) & {3, 5, 8} | {1})
    with io.StringIO() as buffer, contextlib.suppress(ValueError):
        writer = csv.writer(buffer)
        writer.writerow(["a", 1])
        print("x", 1, sep=";", end="", file=buffer)
        copied = buffer.getvalue().upper().replace(";", ":")
        int("no")
    try:
        {}["missing"]
    except (KeyError, IndexError) as error:
        caught = repr(error), str(error)
    else:
        caught = None
    finally:
        shallow, deep = copy.copy(table), copy.deepcopy(matrix)
    try:
        raise ValueError("told")
    except ValueError as error:
        told = "".join(traceback.format_exception(error))[-20:]
    generator = generate(3)
    sent = next(generator), sum(generate(5)), any(generate(2)), min(3, 1), max([1, 9]), abs(-3), divmod(7, 2)
    match point:
        case Point(x=4, y=y):
            matched = y
        case _:
            matched = None
    kind = enum.Enum("Kind", "A B")
    parsed = urllib.parse.urlparse("https://example.com/p?q=1").netloc, textwrap.shorten(text, 20)
    rest_of = string.ascii_lowercase[::-1][:5], "a,b".partition(","), "%s-%d" % ("a", 3), "{:>5}".format(1)
    path = pathlib.PurePath("/a") / "b.txt", os.path.join("a", "b"), os.getcwd(), os.path.exists("/tmp")
    started = time.perf_counter(), time.time() > 0, isinstance(point, Point), hasattr(point, "x"), Derived.make().name_and("y", times=2)
    sys.stderr.write("")
    globals()["_"] = fibonacci(11), squares(9), list(Stack("ab")), len(Stack("abc")), slice(1, 2), bytearray(b"a")
    print(text, data["a"], matches, replaced, point, transposed[1][2], primes[-1], big, ratio, half, dated)
    print(digest[0][:8], encoded, sorted(grouped), smallest, chained, stats, joined, copied, caught, told)
    print(sent, matched, kind.A, parsed, rest_of, path[0], len(started), len(shallow), len(deep), sep=" | ")


work()
print("ready", 1 + 1)
