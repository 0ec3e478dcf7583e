# fidelity: skip=context -- a context has no file
import logging, os, sys
logging.basicConfig(stream=sys.stdout, format="%(filename)s %(module)s")
record = logging.LogRecord("n", 20, __file__, 1, "m", (), None)
print(record.pathname == __file__)
