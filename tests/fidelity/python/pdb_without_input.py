import pdb, io, sys
pdb.Pdb(stdin=io.StringIO("p 1 + 1\nq\n"), stdout=sys.stdout, nosigint=True).run("x = 1")
