def g():
    got = yield 1
    return got
it = g(); next(it)
try: it.send("value")
except StopIteration as stop: print(stop.value)
