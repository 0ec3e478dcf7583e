import contextlib, io, sys
with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
    print("caught")
    print("also", file=sys.stderr)
print(out.getvalue(), err.getvalue())
