import logging
logging.basicConfig(level=logging.DEBUG, format="%(levelname)s:%(name)s:%(funcName)s:%(lineno)d:%(message)s")
def f(): logging.debug("inside")
f()
try:
    1 / 0
except ZeroDivisionError:
    logging.exception("logged")
