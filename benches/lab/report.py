def tables(r): return ""
def goals(r): return ""
