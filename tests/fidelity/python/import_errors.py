for name in ("no_such_module", "os.nothing", "json.no"):
    try:
        __import__(name)
    except ImportError as error:
        print(type(error).__name__, error, error.name)
