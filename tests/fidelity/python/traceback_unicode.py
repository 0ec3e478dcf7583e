def größe():
    raise ValueError("ümläut 漢字")
größe()
