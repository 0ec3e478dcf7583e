// Turns a program into scripts whose declarations outlive it. Bun's own transform does that, but prints the code in a
// new layout. Here its tokens are moved back to their places in the program, so that errors have the program's lines
// and columns.

// Programs may replace these: every global that is used here must be one of them.
const { Array, Bun, JSON, Map, Math, Number, Set, String } = globalThis as any;

/** A piece of code. */
interface Token { text: string; key: string; line: number; column: number; spaced: boolean; broken: boolean }

/** A token of a script, and the token of the program that it came from. */
interface Placed { text: string; spaced: boolean; from?: Token }

interface Script {
  code: string;
  /** Where columns differ from the program, up to the next entry: line, column, column in the program. */
  moved: [number, number, number][];
}

export interface Program {
  /** First the functions, which are declared before everything else; then the rest, which returns an object with the `value`. */
  scripts: string[];
  code: string;
  moved: Script["moved"];
  /** The names that the program declares, and those of them that must not keep an older value. */
  names: string[];
  uninitialized: Set<string>;
  /** The value is that of the last declaration, not of an expression. */
  isDeclaration: boolean;
}

const SPACE = /(?:\s+|\/\/.*|\/\*[^]*?\*\/)+/y;
const WORD = /[#@]?[\p{ID_Start}$_\\][\p{ID_Continue}$\u200c\u200d\\]*/uy;
const NUMBER = /(?:0[xob][\da-f_]+|(?:\d[\d_]*\.?[\d_]*|\.\d[\d_]*)(?:e[+-]?[\d_]+)?)n?/iy;
const QUOTED = /"(?:[^"\\\n]|\\[^])*"|'(?:[^'\\\n]|\\[^])*'/y;
const REGEX = /\/(?:[^\/\\\[\n]|\\.|\[(?:[^\]\\\n]|\\.)*\])+\/[a-z]*/y;
const TEMPLATE = /[`}](?:[^`\\$]|\\[^]|\$(?!\{))*(?:`|\$\{)/y;
const SIGN = /=>|\.\.\.|\?\.(?!\d)|>>>=|\*\*=|<<=|>>=|>>>|&&=|\|\|=|\?\?=|===|!==|\+\+|--|\*\*|<<|>>|<=|>=|==|!=|&&|\|\||\?\?|[-+*\/%&|^]=|[^]/uy;
const BEFORE_REGEX = /^(?:[^\w$)\]}"'`#]+|return|typeof|case|in|of|delete|void|instanceof|new|throw|await|yield|else|do)$/;

// `isPrinted`: by bun, whose lines never start with a division, so that a `/` there starts a regular expression.
function tokens(code: string, isPrinted: boolean): Token[] {
  const found: Token[] = [];
  // The depths at which a `}` ends an expression in a template instead of a block.
  const holes: number[] = [];
  let at = code.startsWith("#!") ? code.indexOf("\n") >>> 0 : 0;
  let depth = 0, line = 1, begin = 0, previous = "";
  const match = (pattern: RegExp): string | undefined => {
    pattern.lastIndex = at;
    return pattern.test(code) ? code.slice(at, pattern.lastIndex) : undefined;
  };
  const advance = (text: string) => {
    for (let end = text.indexOf("\n"); end >= 0; end = text.indexOf("\n", end + 1)) {
      line += 1;
      begin = at + end + 1;
    }
    at += text.length;
  };
  while (at < code.length) {
    const space = match(SPACE), before = line;
    if (space) advance(space);
    if (at >= code.length) break;
    const isBroken = line > before;
    const first = code[at];
    let text: string | undefined, key: string | undefined;
    if (first === "`" || (first === "}" && holes.at(-1) === depth)) {
      text = match(TEMPLATE);
      if (text && first === "}") holes.pop();
      if (text?.endsWith("${")) holes.push(depth);
    } else if (first === '"' || first === "'") {
      text = match(QUOTED);
      key = text && `"${text.slice(1, -1)}`;
    } else if (first === "/" && (previous === "" || BEFORE_REGEX.test(previous) || (isPrinted && isBroken))) {
      text = match(REGEX);
    } else if ((first >= "0" && first <= "9") || (first === "." && /\d/.test(code[at + 1] ?? ""))) {
      text = match(NUMBER);
      key = text && String(Number(text.replaceAll("_", "").replace(/n$/, "")));
    } else {
      text = match(WORD);
    }
    text ??= match(SIGN)!;
    if (text === "{") depth += 1;
    if (text === "}") depth -= 1;
    found.push({ text, key: key ?? text, line, column: at - begin + 1, spaced: space !== undefined, broken: isBroken });
    // A name after a dot is not a keyword.
    previous = previous === "." ? "x" : text;
    advance(text);
  }
  return found;
}

// Replaces `export` syntax by spaces, because a context cannot import from another program.
function withoutExports(code: string): string {
  if (!/\bexport\b/.test(code)) return code;
  const all = tokens(code, false);
  const lines = code.split("\n");
  const replace = (token: Token, by: string) => {
    const text = lines[token.line - 1], at = token.column - 1;
    lines[token.line - 1] = text.slice(0, at) + by.padEnd(token.text.length) + text.slice(at + token.text.length);
  };
  let depth = 0;
  for (let n = 0; n < all.length; n++) {
    const { text } = all[n];
    if (text === "{" || text === "(" || text === "[") depth += 1;
    if (text === "}" || text === ")" || text === "]") depth -= 1;
    if (depth !== 0 || text !== "export" || all[n - 1]?.text === ".") continue;
    const next = all[n + 1]?.text, isType = next === "type";
    const list = n + (isType ? 2 : 1);
    if (next === "default") {
      const names = /^(?:abstract|async|function|class|interface|\*)$/;
      let last = n + 2;
      while (names.test(all[last]?.text)) last += 1;
      const isNamed = last > n + 2 && /^[\w$]/.test(all[last]?.text ?? "") && all[last].text !== "extends";
      replace(all[n], "");
      replace(all[n + 1], isNamed ? "" : "0,");
    } else if (next === "=") {
      replace(all[n], "");
      replace(all[n + 1], "");
    } else if (all[list]?.text === "{" || all[list]?.text === "*") {
      let end = list;
      if (all[list].text === "{") while (end < all.length && all[end].text !== "}") end += 1;
      else while (end + 1 < all.length && all[end + 1].text !== "from") end += 1;
      const from = all[end + 1]?.text === "from" ? end + 1 : undefined;
      for (let each = n; each <= (from ?? end); each++) replace(all[each], "");
      if (from !== undefined && !isType) replace(all[n], "import");
      else if (from !== undefined) replace(all[from + 1], "");
      n = from ?? end;
    } else {
      replace(all[n], "");
    }
  }
  return lines.join("\n");
}

// Returns the names that `let`, `enum` and `namespace` declare at the top level: they start without a value.
function uninitializedNames(program: Token[]): Set<string> {
  const names = new Set<string>();
  let depth = 0, isInList = false, base = 0;
  program.forEach(({ text, broken }, n) => {
    const previous = program[n - 1]?.text ?? ";";
    if (isInList && depth === base && (text === ";" || (broken && previous !== "," && text !== ","))) isInList = false;
    if (depth === 0 && /^(?:let|enum|namespace)$/.test(text) && previous !== ".") {
      [isInList, base] = [text === "let", depth];
      const next = program[n + 1]?.text;
      if (next) names.add(next);
    }
    if (isInList && depth === base && previous === ",") names.add(text);
    if (text === "{" || text === "(" || text === "[") depth += 1;
    if (text === "}" || text === ")" || text === "]") depth -= 1;
  });
  return names;
}

// The maximum number of consecutive tokens that bun has added, and how far both lists are searched for the place where
// they agree again: further after each failure.
const AHEAD = 24, NEAR = 64, FAR = 4096;

// Returns where each sequence of three tokens is, in ascending order.
function placesOf(list: Token[], three: (list: Token[], at: number) => string): Map<string, number[]> {
  const places = new Map<string, number[]>();
  for (let at = 0; at < list.length; at++) {
    const key = three(list, at), known = places.get(key);
    if (known) known.push(at);
    else places.set(key, [at]);
  }
  return places;
}

// Returns the index of the first number in an ascending list that is not smaller.
function firstFrom(ascending: number[], least: number): number {
  let low = 0, high = ascending.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (ascending[middle] < least) low = middle + 1;
    else high = middle;
  }
  return low;
}

// Finds for each printed token the token of the program that it came from: mostly the next one. If bun has removed or
// added tokens, three equal tokens in a row show where both lists continue.
function align(printed: Token[], program: Token[]): (Token | undefined)[] {
  const found: (Token | undefined)[] = new Array(printed.length);
  const agree = (n: number, m: number, count: number) => {
    for (let each = 0; each < count; each++) {
      if (printed[n + each]?.key !== program[m + each]?.key) return false;
    }
    return true;
  };
  let places: Map<string, number[]> | undefined;
  const three = (list: Token[], at: number) => JSON.stringify([list[at].key, list[at + 1]?.key, list[at + 2]?.key]);
  const next = (n: number, m: number, reach: number): [number, number] | undefined => {
    places ??= placesOf(program, three);
    let best: [number, number] | undefined, least = reach + 1;
    for (let ahead = 0; ahead < Math.min(AHEAD, least) && n + ahead < printed.length; ahead++) {
      const known = places.get(three(printed, n + ahead));
      const place = known?.[firstFrom(known, m)];
      if (place === undefined || ahead + place - m >= least || ahead + place === m) continue;
      best = [n + ahead, place];
      least = ahead + place - m;
    }
    return best;
  };
  let n = 0, m = 0, reach = NEAR;
  while (n < printed.length && m < program.length) {
    // Bun turns an import into several statements. All of them get the place of the import.
    const isImport = program[m].text === "import" && program[m + 1]?.text !== "(";
    const ends = isImport ? imported(printed, n, program, m) : undefined;
    if (ends) {
      found[n] = program[m];
      [n, m] = ends;
    } else if (printed[n].key === program[m].key) {
      found[n++] = program[m++];
    } else {
      const both = next(n, m, reach);
      reach = both ? NEAR : Math.min(reach * 2, FAR);
      // At the end of the lists, two equal tokens in a row must be enough.
      const end = both ? -1 : [0, 1, 2, 3].findIndex((skipped) => agree(n, m + skipped, 2));
      if (both) [n, m] = both;
      else if (end >= 0) [found[n++], m] = [program[m + end], m + end + 1];
      else n += 1;
    }
  }
  return found;
}

// If bun has made the statements at `n` from the `import` at `m`, returns where both end.
function imported(printed: Token[], n: number, program: Token[], m: number): [number, number] | undefined {
  const isName = (token: Token) => token.key.startsWith('"');
  const until = (list: Token[], at: number, holds: (token: Token) => boolean) => {
    while (at < list.length && !holds(list[at])) at += 1;
    return at;
  };
  const isEnd = (token: Token) => token.text === ";";
  const call = until(printed, n, (token) => isEnd(token) || isName(token));
  let place = until(program, m, (token) => isEnd(token) || isName(token));
  if (printed[call - 2]?.text !== "__context.import" || program[place]?.key !== printed[call].key) return undefined;
  const name = printed[n].text;
  let end = until(printed, call, isEnd) + 1;
  while (printed[end + 1]?.text === "=" && printed[end + 2]?.text === name) end = until(printed, end, isEnd) + 1;
  if (/^(?:with|assert)$/.test(program[place + 1]?.text)) place = until(program, place, ({ text }) => text === "}");
  return [end, program[place + 1]?.text === ";" ? place + 2 : place + 1];
}

const NO_BREAK_AFTER = /^(?:return|throw|break|continue|yield|async|using|accessor)$/;
const NO_BREAK_BEFORE = /^(?:\+\+|--|=>)$/;

// Writes tokens at the places of those that they came from. Bun has printed every semicolon, so a line break is
// equivalent to a space everywhere else.
function lay(placed: Placed[]): Script {
  const parts: string[] = [], moved: Script["moved"] = [];
  let line = 1, column = 1, shift = 0, previous = "";
  for (const { text, spaced, from } of placed) {
    if (from && from.line > line && !NO_BREAK_AFTER.test(previous) && !NO_BREAK_BEFORE.test(text)) {
      parts.push("\n".repeat(from.line - line));
      [line, column, shift] = [from.line, 1, 0];
    }
    // Within a line as bun has printed it, because messages of errors quote the code.
    const gap = column > 1 ? Number(spaced) : from?.line === line ? from.column - 1 : 0;
    if (gap > 0) {
      parts.push(" ".repeat(gap));
      column += gap;
    }
    if (from?.line === line && from.column - column !== shift) {
      shift = from.column - column;
      moved.push([line, column, from.column]);
    }
    parts.push(text);
    column += text.length;
    for (let end = text.indexOf("\n"); end >= 0; end = text.indexOf("\n", end + 1)) {
      line += 1;
      [column, shift] = [text.length - end, 0];
    }
    previous = text;
  }
  return { code: parts.join(""), moved };
}

const GIVES = ["return", "{", "__proto__", ":", "null", ",", "value", ":"];

// Returns the end of the function, block or list that starts at `n`: the position after its last bracket.
function closed(list: Token[], n: number): number {
  let depth = 0;
  for (; n < list.length; n++) {
    const { text } = list[n];
    if (text === "{" || text === "(" || text === "[" ) depth += 1;
    if ((text === "}" || text === ")" || text === "]") && --depth === 0) return n + 1;
  }
  return n;
}

// Returns the ranges of top-level functions, each after bun's `this.NAME = NAME;`.
function functions(body: Token[]): [number, number][] {
  const found: [number, number][] = [];
  let depth = 0;
  for (let n = 0; n < body.length; n++) {
    const { text } = body[n];
    if (depth === 0 && text === "this" && body[n + 1]?.text === "." && body[n + 3]?.text === "=") {
      const name = body[n + 2].text;
      let at = n + 6;
      if (body[at]?.text === "async") at += 1;
      if (body[n + 4].text === name && body[at]?.text === "function" && body[at].broken === (at === n + 6)) {
        at += body[at + 1].text === "*" ? 3 : 2;
        if (body[at - 1].text === name) {
          const end = closed(body, closed(body, at));
          found.push([n, end]);
          n = end - 1;
          continue;
        }
      }
    }
    if (text === "{" || text === "(" || text === "[") depth += 1;
    if (text === "}" || text === ")" || text === "]") depth -= 1;
  }
  return found;
}

const LOADERS = ["ts", "tsx"] as const;
const DEFINE = {
  "import.meta": "__context.meta", __dirname: "__context.dirname",
  __filename: "__context.filename",
  // Bun would insert "development".
  "process.env.NODE_ENV": "process.env.NODE_ENV",
};

// Transforms the code as TypeScript; otherwise as TypeScript with JSX; otherwise as a block, because bun takes a first
// brace for that of an object. If all fail, throws the error that is last in the code.
function transformed(code: string): string {
  let failure: any;
  const place = (error: any) => {
    const { line = 0, column = 0 } = (error?.errors?.[0] ?? error)?.position ?? {};
    return line * 1e7 + column;
  };
  const sources = /^\s*\{/.test(code) ? [code, `;${code}`] : [code];
  for (const source of sources) {
    for (const loader of LOADERS) {
      try {
        const options = { loader, replMode: true, autoImportJSX: true, define: DEFINE };
        return new Bun.Transpiler(options as any).transformSync(source);
      } catch (error) {
        if (failure === undefined || place(error) > place(failure)) failure = error;
      }
    }
  }
  throw failure;
}

// Splits bun's output: the names that outlive the program, then a function call that contains the program and, at its
// end, an object with the value if there is one.
function parts(printed: Token[]): { names: string[]; isAsync: boolean; statements: Token[]; value: Token[] } {
  const names: string[] = [];
  let at = 0;
  while (printed[at]?.text === "var") {
    // Each name is followed by a comma, the last one by a semicolon.
    do names.push(printed[at + 1].text);
    while (printed[(at += 2)].text !== ";");
    at += 1;
  }
  const isAsync = printed[at + 1]?.text === "async";
  const body = printed.slice(at + (isAsync ? 6 : 5), -5);
  let depth = 0;
  for (let n = body.length - 1; n >= 0; n--) {
    const { text } = body[n];
    if (text === "}" || text === ")" || text === "]") depth += 1;
    if (text === "{" || text === "(" || text === "[") depth -= 1;
    if (depth > 0) continue;
    if (GIVES.every((text, k) => body[n + k]?.text === text)) {
      return { names, isAsync, statements: body.slice(0, n), value: body.slice(n + GIVES.length, -2) };
    }
    if (text === ";" && n < body.length - 1) break;
  }
  return { names, isAsync, statements: body, value: [] };
}

// Makes the names that bun has generated unique to this program, because it generates the same names for others.
function renameMadeUp(printed: Token[], names: string[], program: Token[], number: number): void {
  const known = new Set(program.map((token) => token.text));
  const madeUp = new Set(names.filter((name) => !known.has(name)));
  if (madeUp.size === 0) return;
  const renamed = (name: string) => (madeUp.has(name) ? `${name}$${number}` : name);
  for (const token of printed) token.text = renamed(token.text);
  names.forEach((name, n) => (names[n] = renamed(name)));
}

function replaceImports(printed: Token[]): void {
  printed.forEach((token, n) => {
    const isCall = token.text === "import" && printed[n + 1]?.text === "(" && printed[n - 1]?.text !== ".";
    if (isCall) token.text = "__context.import";
  });
}

// With `using` at the top level, bun moves the other declarations into a block. This moves them out again.
function keepBesideUsing(statements: Token[], names: string[]): Token[] {
  const begin = statements.findIndex((token, n) => {
    return token.text === "try" && ["[", "]", ";"].every((text, k) => statements[n - 3 + k]?.text === text);
  });
  if (begin < 0) return statements;
  const end = closed(statements, begin + 1);
  let depth = 0;
  return statements.filter(({ text }, n) => {
    if (n < begin || n >= end) return true;
    if (text === "{" || text === "(" || text === "[") depth += 1;
    if (text === "}" || text === ")" || text === "]") depth -= 1;
    const [name, sign, value] = statements.slice(n + 1, n + 4);
    if (depth !== 1 || text !== "var" || sign?.text !== "=" || value?.text.startsWith("__using")) return true;
    names.push(name.text);
    return false;
  });
}

/** Rewrites the program with this number in its context. Throws bun's error for invalid code. */
export function rewritten(code: string, number: number): Program {
  const source = withoutExports(code);
  const printed = tokens(transformed(source), true), program = tokens(source, false);
  replaceImports(printed);
  const { names, isAsync, statements: all, value } = parts(printed);
  const statements = keepBesideUsing(all, names);
  const isDeclared = new Set(names);
  renameMadeUp(printed, names, program, number);
  const from = align(statements.concat(value), program);
  const place = ({ text, spaced }: Token, n: number): Placed => ({ text, spaced, from: from[n] });
  const glue = (text: string): Placed => ({ text, spaced: false });
  const early: Placed[] = [], late = [glue(isAsync ? "(async()=>{" : "(()=>{")];
  const starts = new Map(functions(statements));
  for (let n = 0; n < statements.length; n++) {
    const end = starts.get(n);
    if (end === undefined) {
      late.push(place(statements[n], n));
      continue;
    }
    for (let each = n + 6; each < end; each++) early.push(place(statements[each], each));
    early.push(glue(" "));
    n = end - 1;
  }
  if (value.length > 0) {
    late.push(glue("return{__proto__:null,value:"));
    value.forEach((token, n) => late.push(place(token, statements.length + n)));
    late.push(glue("}"));
  }
  late.push(glue("})()"));
  const scripts = early.length > 0 ? [lay(early), lay(late)] : [lay(late)];
  return {
    scripts: scripts.map((script) => script.code),
    code,
    moved: scripts.flatMap((script) => script.moved),
    names,
    uninitialized: uninitializedNames(program),
    isDeclaration: declares(value, from.slice(statements.length), isDeclared, program),
  };
}

// Whether bun's value is that of the program's last declaration instead of an expression.
function declares(value: Token[], from: (Token | undefined)[], names: Set<string>, program: Token[]): boolean {
  if (value.length === 0) return false;
  const texts = value.map((token) => token.text);
  if (texts[0] === "(" && texts[1] === "(" && names.has(texts[2]) && texts.at(-4) === "||=") return true;
  const isPattern = texts[0] === "{" || texts[0] === "[";
  if (!isPattern && !(names.has(texts[0]) && texts[1] === "=")) return false;
  if (!from[0]) return !isPattern;
  if (from[0].text === "import") return true;
  const previous = program[program.indexOf(from[0]) - 1]?.text ?? ";";
  return /^(?:const|let|var|class|import|as|using|enum|namespace|[,*])$/.test(previous);
}
