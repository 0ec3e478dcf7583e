# fidelity: stdin=one\ntwo\n
with open(0) as file:
    print(file.read().split())
