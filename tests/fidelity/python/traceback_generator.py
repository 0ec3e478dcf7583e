def numbers():
    yield 1
    raise LookupError("in a generator")
for number in numbers(): print(number)
