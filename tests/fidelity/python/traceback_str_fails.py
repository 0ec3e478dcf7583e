class Mute(Exception):
    def __str__(self): raise RuntimeError("no text")
raise Mute(1)
