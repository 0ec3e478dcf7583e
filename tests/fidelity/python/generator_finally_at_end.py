# fidelity: skip=context -- it does not end
def generator():
    try: yield 1
    finally: print("closed")
kept = generator()
print(next(kept))
