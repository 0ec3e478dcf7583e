class Text:
    def __str__(self): return "an object"
raise SystemExit(Text())
