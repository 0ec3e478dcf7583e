match {"a": [1, 2, 3]}:
    case {"a": [first, *rest]} if (n := len(rest)) > 1:
        print(first, rest, n)
print(*[*range(2), *"ab"], {**{"x": 1}})
