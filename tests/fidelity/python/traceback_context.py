try:
    int("no")
except ValueError:
    [][1]
