# fidelity: stdin=Ann\n42\n
name = input("name? ")
age = int(input())
print(f"{name} is {age}")
try:
    input("more? ")
except EOFError as error:
    print(repr(error))
