# fidelity: skip=context -- IPython's magics are tried first
print("never printed"
x = 1
