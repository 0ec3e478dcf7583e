value = None
result = (1 +
          value["key"]
          + 3)
