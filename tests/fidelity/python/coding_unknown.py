# fidelity: skip=context,display -- their code is text already
# -*- coding: no-such-encoding -*-
print("never")
