values = sorted([1, "a"], key=lambda item: item)
