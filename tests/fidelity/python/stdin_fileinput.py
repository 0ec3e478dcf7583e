# fidelity: stdin=x\ny\n
import fileinput
for line in fileinput.input(files=("-",)):
    print(fileinput.lineno(), line.strip(), fileinput.filename())
