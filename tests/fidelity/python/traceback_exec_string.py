exec("def g():\n    raise ValueError('inside')\ng()")
