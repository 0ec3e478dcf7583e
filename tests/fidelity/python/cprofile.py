import cProfile, io, pstats
profile = cProfile.Profile()
profile.runcall(sorted, [3, 1, 2])
out = io.StringIO()
pstats.Stats(profile, stream=out).print_stats()
print("sorted" in out.getvalue())
