import pickle
try:
    pickle.dumps(lambda: 1)
except Exception as error:
    print(type(error).__name__, "lambda" in str(error))
