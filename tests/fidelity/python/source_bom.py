# a byte order mark
print("é", __doc__)
