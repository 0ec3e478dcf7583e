import decimal, math
print(decimal.getcontext().prec, decimal.Decimal(1) / 3, math.fsum([0.1] * 10))
