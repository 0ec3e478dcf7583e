import logging
logging.warning("to stderr")
logging.info("hidden")
logging.getLogger("app").error("named %d", 5)
