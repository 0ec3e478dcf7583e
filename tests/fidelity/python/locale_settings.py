import locale
print(locale.setlocale(locale.LC_ALL), locale.localeconv()["decimal_point"])
print(locale.setlocale(locale.LC_ALL, ""), f"{1234567.5:n}")
