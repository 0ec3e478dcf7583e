// Turns a program into scripts whose declarations outlive it. Bun's own transform does that, and prints code anew;
// here its tokens are put back to where they stood in the program, so that lines and columns of errors are the
// program's, for whoever reads them.

/** A piece of code. */
interface Token { text: string; key: string; line: number; column: number; spaced: boolean; broken: boolean }

/** A token of a script, and the one of the program that it came from. */
interface Placed { text: string; spaced: boolean; from?: Token }

interface Script {
  code: string;
  /** Where tokens stand in other columns than in the program, up to the next one here: line, column, column there. */
  moved: [number, number, number][];
}

export interface Program {
  /** Functions, which are there before all else runs; then the rest, which gives an object with the `value`. */
  scripts: string[];
  code: string;
  moved: Script["moved"];
  /** What the program declares, and what of it must not keep an older value. */
  names: string[];
  anew: Set<string>;
  /** The value is no expression's, but what the last declaration declares. */
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

// `isPrinted`: by bun, where a division never begins a line and what is no operand's end always does.
function tokens(code: string, isPrinted: boolean): Token[] {
  const found: Token[] = [];
  // Where a `}` ends no block but the hole of a template.
  const holes: number[] = [];
  let at = code.startsWith("#!") ? code.indexOf("\n") >>> 0 : 0;
  let depth = 0, line = 1, begin = 0, previous = "";
  const match = (pattern: RegExp): string | undefined => {
    pattern.lastIndex = at;
    return pattern.exec(code)?.[0];
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
    // A name after a dot is no keyword.
    previous = previous === "." ? "x" : text;
    advance(text);
  }
  return found;
}

// What a module exports, no context can import: the words that say so become spaces.
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

// Names that `let` and the like declare at the top: they begin without a value.
function declaredAnew(program: Token[]): Set<string> {
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

const AHEAD = 24;

// Finds for each printed token the one of the program that it was: mostly the next one. Where bun has left out or
// added some, three that stand together say where both go on.
function align(printed: Token[], program: Token[]): (Token | undefined)[] {
  const found: (Token | undefined)[] = new Array(printed.length);
  let places: Map<string, number[]> | undefined;
  const three = (list: Token[], n: number) => `${list[n].key} ${list[n + 1]?.key} ${list[n + 2]?.key}`;
  const next = (n: number, from: number): number | undefined => {
    if (!places) {
      places = new Map();
      for (let each = 0; each < program.length; each++) {
        const key = three(program, each), list = places.get(key);
        if (list) list.push(each);
        else places.set(key, [each]);
      }
    }
    const list = places.get(three(printed, n));
    if (!list) return undefined;
    let [low, high] = [0, list.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (list[middle] < from) low = middle + 1;
      else high = middle;
    }
    return list[low];
  };
  let n = 0, m = 0;
  while (n < printed.length) {
    if (program[m]?.text === "import" && program[m + 1]?.text !== "(") {
      // Bun makes several statements of it: all of them stand where it stood.
      const ends = imported(printed, n, program, m);
      if (ends) {
        found[n] = program[m];
        [n, m] = ends;
        continue;
      }
    }
    if (m < program.length && printed[n].key === program[m].key) {
      found[n++] = program[m++];
      continue;
    }
    let best: [number, number] | undefined;
    for (let ahead = 0; ahead < AHEAD && n + ahead < printed.length; ahead++) {
      if (best && ahead >= best[0] + best[1] - m) break;
      const place = next(n + ahead, m);
      if (place !== undefined && (!best || ahead + place < best[0] + best[1])) best = [ahead, place];
    }
    if (best) {
      n += best[0];
      m = best[1];
    } else {
      // A sign that bun leaves out or adds, at the end of what both have.
      const key = printed[n].key, then = printed[n + 1]?.key;
      for (let same = m; same < m + 4; same++) {
        if (program[same]?.key !== key || program[same + 1]?.key !== then) continue;
        found[n] = program[same];
        m = same + 1;
        break;
      }
      n += 1;
    }
  }
  return found;
}

// Of an `import` at `m`, if bun has made the statements at `n` of it: where both are over.
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

// Writes tokens where those that they came from stood. Bun has printed every semicolon, so that a line's end
// is a space anywhere else.
function lay(placed: Placed[]): Script {
  const parts: string[] = [], moved: Script["moved"] = [];
  let line = 1, column = 1, shift = 0, previous = "";
  for (const { text, spaced, from } of placed) {
    if (from && from.line > line && !NO_BREAK_AFTER.test(previous) && !NO_BREAK_BEFORE.test(text)) {
      parts.push("\n".repeat(from.line - line));
      [line, column, shift] = [from.line, 1, 0];
    }
    const gap = from?.line === line ? Math.max(from.column - column, 0) : 0;
    if (gap > 0 || (spaced && column > 1)) {
      parts.push(" ".repeat(Math.max(gap, 1)));
      column += Math.max(gap, 1);
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

// The end of a function, a block or a list that begins at `n`: behind its last bracket.
function closed(list: Token[], n: number): number {
  let depth = 0;
  for (; n < list.length; n++) {
    const { text } = list[n];
    if (text === "{" || text === "(" || text === "[" ) depth += 1;
    if ((text === "}" || text === ")" || text === "]") && --depth === 0) return n + 1;
  }
  return n;
}

// Functions of the top level, each behind bun's `this.NAME = NAME;`, from where to where.
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
const DEFINE = { "import.meta": "__context.meta", __dirname: "__context.dirname", __filename: "__context.filename" };

// As TypeScript; else with JSX in it; else as a block, where bun takes a first brace for an object's. Of their errors
// the one that comes last in the code is the program's.
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

/** Rewrites a program, the `number`th of its context. Throws what bun says of code that is none. */
export function rewritten(code: string, number: number): Program {
  const source = withoutExports(code);
  let printed = tokens(transformed(source), true);
  const program = tokens(source, false);
  // First come the names that outlive the program, then a function with it that is called.
  const names: string[] = [];
  let at = 0;
  while (printed[at]?.text === "var") {
    for (at += 1; printed[at - 1].text !== ";"; at += 2) names.push(printed[at].text);
  }
  // Names that bun has made up are this program's own.
  const known = new Set(program.map((token) => token.text));
  const madeUp = new Set(names.filter((name) => !known.has(name)));
  if (madeUp.size > 0) {
    const own = (token: Token) => (madeUp.has(token.text) ? { ...token, text: `${token.text}$${number}` } : token);
    printed = printed.map(own);
  }
  printed.forEach((token, n) => {
    if (token.text === "import" && printed[n + 1]?.text === "(" && printed[n - 1]?.text !== ".") {
      token.text = "__context.import";
    }
  });
  const isAsync = printed[at + 1]?.text === "async";
  const body = printed.slice(at + (isAsync ? 6 : 5), -5);
  // At its end an object with the value, if there is one.
  let gives = body.length;
  for (let n = body.length - 1, depth = 0; n >= 0; n--) {
    if (body[n].text === "}" || body[n].text === ")" || body[n].text === "]") depth += 1;
    if (body[n].text === "{" || body[n].text === "(" || body[n].text === "[") depth -= 1;
    if (depth === 0 && body[n].text === "return" && GIVES.every((text, k) => body[n + k]?.text === text)) gives = n;
    if (depth === 0 && (body[n].text === "return" || (body[n].text === ";" && n < body.length - 1))) break;
  }
  const value = body.slice(gives + GIVES.length, -2);
  const statements = body.slice(0, gives);
  const from = align([...statements, ...value], program);
  const placed: Placed[] = [...statements, ...value].map(({ text, spaced }, n) => ({ text, spaced, from: from[n] }));
  const glue = (text: string): Placed => ({ text, spaced: false });
  const early: Placed[] = [], late: Placed[] = [glue(isAsync ? "(async()=>{" : "(()=>{")];
  const starts = new Map(functions(statements));
  for (let n = 0; n < statements.length; n++) {
    const end = starts.get(n);
    if (end === undefined) {
      late.push(placed[n]);
      continue;
    }
    for (let each = n + 6; each < end; each++) early.push(placed[each]);
    early.push(glue(" "));
    n = end - 1;
  }
  if (value.length > 0) {
    late.push(glue("return{__proto__:null,value:"));
    for (let n = statements.length; n < placed.length; n++) late.push(placed[n]);
    late.push(glue("}"));
  }
  late.push(glue("})()"));
  const scripts = early.length > 0 ? [lay(early), lay(late)] : [lay(late)];
  const isDeclaration = declares(value, from.slice(statements.length), new Set(names), program);
  const all = names.map((name) => (madeUp.has(name) ? `${name}$${number}` : name));
  const moved = scripts.flatMap((script) => script.moved);
  return { scripts: scripts.map((s) => s.code), code, moved, names: all, anew: declaredAnew(program), isDeclaration };
}

// Whether what bun gives as the value is no expression of the program, but its last declaration.
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
