# Writes the completions of the last word of `line` to standard output, one per line. `names` are the variables of the
# context. Only names and attributes are evaluated, never calls.
import builtins, keyword, os, re, sys


def modules():
    import pkgutil

    found = {module.name for module in pkgutil.iter_modules()}
    return found | set(sys.stdlib_module_names) | set(sys.modules)


def complete():
    part = re.fullmatch(r"\s*from\s+([\w.]+)\s+import\s+(?:\w+\s*,\s*)*(\w*)", line)
    if part:
        return "", part[2], dir(sys.modules.get(part[1]))
    part = re.fullmatch(r"\s*(?:import\s+(?:[\w.]+\s*,\s*)*|from\s+)([\w.]*)", line)
    if part:
        return "", part[1], modules()
    word = re.search(r"[\w.]*$", line)[0]
    base, dot, prefix = word.rpartition(".")
    if not dot:
        return "", word, {*names, *dir(builtins), *keyword.kwlist}
    if not re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)*", base):
        return "", word, ()
    value = eval(base, names)
    return base + ".", prefix, {*dir(value), *dir(type(value))}


try:
    base, prefix, candidates = complete()
    hidden = () if prefix.startswith("_") else ("_",)
    found = sorted(w for w in candidates if w.startswith(prefix) and not w.startswith(hidden))
except Exception:
    base, found = "", []
os.write(1, "\n".join(base + word for word in found[:500]).encode("utf-8", "replace"))
