def bad():
    yield next(iter([]))
list(bad())
