// Writes the completions of the last word of `line` to standard output, one per line. Only names and properties are
// evaluated, never calls.
((line) => {
  const KEYWORDS = "async await break case catch class const continue debugger default delete do else export extends false finally for function if import in instanceof let new null return static super switch this throw true try typeof var void while with yield";
  const word = /[\w$.]*$/.exec(line)[0];
  const end = word.lastIndexOf(".") + 1;
  const base = word.slice(0, end), prefix = word.slice(end);
  const found = new Set();
  try {
    let value = globalThis;
    if (base) {
      if (!/^[A-Za-z_$][\w$]*(\.[A-Za-z_$][\w$]*)*\.$/.test(base)) return;
      value = (0, eval)(base.slice(0, -1));
    } else {
      for (const name of KEYWORDS.split(" ")) found.add(name);
    }
    for (let part = value == null ? null : Object(value); part; part = Object.getPrototypeOf(part))
      for (const name of Object.getOwnPropertyNames(part)) found.add(name);
  } catch {}
  const names = [...found].filter((name) => name.startsWith(prefix) && /^[A-Za-z_$][\w$]*$/.test(name));
  const shown = prefix.startsWith("_") ? names : names.filter((name) => !name.startsWith("_"));
  process.getBuiltinModule("fs").writeSync(1, shown.sort().slice(0, 500).map((name) => base + name).join("\n"));
})
