try:
    {}["missing"]
except KeyError as error:
    raise ValueError("because") from error
