// Formats errors and values as text.
// Programs may replace these: every global that is used here must be one of them.
const {
  AggregateError, Array, Buffer, BuildMessage, Bun, Error, JSON, Math, Number, Object, Promise, RegExp, String, Symbol,
} = globalThis as any;

/** A program, and the tokens whose columns differ from its code: line, column in the script, column in the code. */
export interface Source { code: string; moved: [number, number, number][] }

/** A line of results, and a complaint to print with it. */
export interface Shown { line: string; complaint?: string }

const RUNNERS = `${import.meta.dir}/`;
const isCode = (line: string) => /^ *\d+ \| /.test(line) || /^ *\^$/.test(line);
const isFrame = (line: string) => /^ +at /.test(line);

/** Formats an error as bun shows it: with the lines of the program that it refers to. */
export function described(error: unknown, sources: Map<string, Source>): string {
  if (error instanceof BuildMessage || (error instanceof AggregateError && error.errors[0] instanceof BuildMessage)) {
    const text = Bun.inspect(error).replace(/\binput\.tsx?\b/g, [...sources.keys()].at(-1));
    return text.replace(/^\n+/, "").trimEnd();
  }
  if (!(error instanceof Error)) {
    return typeof error === "string" ? `error: ${error}\n${error}` : `error\n${Bun.inspect(error)}`;
  }
  const lines: string[] = Bun.inspect(error).trimEnd().split("\n");
  const told: string[] = [];
  // Lines of code, then the error, then frames; the same again for a cause.
  for (let n = 0; n < lines.length; ) {
    const holds = [isCode, isFrame].find((kind) => kind(lines[n])) ?? ((line) => !isCode(line) && !isFrame(line));
    let end = n;
    while (end < lines.length && holds(lines[end])) end += 1;
    const part = lines.slice(n, end);
    if (holds === isFrame) told.push(...frames(part, sources));
    else if (holds === isCode) told.push(...(excerpt(lines.slice(end).find(isFrame), sources) ?? part));
    else told.push(...part);
    n = end;
  }
  return told.join("\n");
}

const PLACE = /((?:\/[^\s()]*\/)?(?:exec-\d+|main(?:\.\d+)?)\.ts):(\d+):(\d+)/;

function place(frame: string, sources: Map<string, Source>) {
  const [, file, row, at] = PLACE.exec(frame) ?? [];
  if (!file) return undefined;
  const source = sources.get(file), line = Number(row);
  let column = Number(at);
  const moved = source?.moved.findLast((moved) => moved[0] === line && moved[1] <= column);
  if (moved) column += moved[2] - moved[1];
  return { file, line, column, source };
}

// Removes the frames of the runner, and the one that calls the program. The program's first frame has no name.
export function frames(stack: string[], sources: Map<string, Source>): string[] {
  const isRunners = (frame: string) => frame.includes(RUNNERS) || /\bunknown:1:1\)?$/.test(frame);
  const own = stack.filter((frame) => !isRunners(frame));
  const isWhole = stack.some((frame) => frame.includes(RUNNERS) || /at eval \(unknown/.test(frame));
  const nameless = /^ +at (?:<anonymous> \()?\S*(?:exec-\d+|main(?:\.\d+)?)\.ts:[\d:]+\)?$/;
  const last = own.at(-1) ?? "", isCall = nameless.test(last) && nameless.test(own.at(-2) ?? "");
  if (isWhole && (/^ +at eval \(\S*(?:exec-|main)/.test(last) || isCall)) own.pop();
  const told = own.map((frame) => {
    const is = place(frame, sources);
    return is ? frame.replace(PLACE, `${is.file}:${is.line}:${is.column}`) : frame;
  });
  if (isWhole) told.push(told.pop()?.replace(/at (async )?<anonymous> \((\S*(?:exec-|main).*)\)$/, "at $1$2") ?? "");
  return told;
}

// Returns the lines of the program that a frame refers to, as they were sent.
function excerpt(frame: string | undefined, sources: Map<string, Source>): string[] | undefined {
  const is = frame === undefined ? undefined : place(frame, sources);
  if (!is?.source) return undefined;
  const from = Math.max(1, is.line - 5), width = String(is.line).length;
  const shown = is.source.code.split("\n").slice(from - 1, is.line);
  const numbered = shown.map((line, n) => `${String(from + n).padStart(width)} | ${line}`);
  return [...numbered, " ".repeat(width + 2 + Math.max(1, is.column)) + "^"];
}

const RESULT_BYTES = 8 << 20, CUT_BYTES = 64 << 10, JSON_VALUES = 10_000, JSON_DEPTH = 100;
const DISPLAY = Symbol.for("Jupyter.display");

/** Formats a value as a line of results: an object from media types to data. */
export function displayed(value: any, sources: Map<string, Source>): Shown | Promise<Shown> {
  try {
    const own = typeof value === "object" || typeof value === "function" ? value?.[DISPLAY] : undefined;
    if (typeof own !== "function") return line(bundle(value, sources));
    const given = own.call(value);
    // The value's own representation, if it is an object from names to data.
    const isData = (given: any) => given && typeof given === "object" && !Array.isArray(given);
    const told = (given: any) => line(isData(given) ? given : bundle(value, sources));
    return given instanceof Promise ? given.then(told) : told(given);
  } catch (error) {
    return line({ "text/plain": String(error) });
  }
}

function bundle(value: unknown, sources: Map<string, Source>): Record<string, unknown> {
  if (value instanceof Error) return { "text/plain": described(value, sources) };
  const data: Record<string, unknown> = { "text/plain": Bun.inspect(value, { colors: false }) };
  if (value !== null && typeof value === "object" && isPlain(value)) data["application/json"] = value;
  return data;
}

function line(data: Record<string, unknown>): Shown {
  const text = JSON.stringify(data);
  if (Buffer.byteLength(text) <= RESULT_BYTES) return { line: text };
  const plain = typeof data["text/plain"] === "string" ? data["text/plain"] : text;
  // Does not split a character.
  const cut = Buffer.from(plain).subarray(0, CUT_BYTES).toString("utf8").replace(/\ufffd$/, "");
  const complaint = `a value of more than ${RESULT_BYTES >> 20} MiB is shown cut to ${CUT_BYTES >> 10} KiB`;
  return { line: JSON.stringify({ "text/plain": cut }), complaint };
}

// Whether JSON can represent the value completely, and the value is not too large.
function isPlain(value: object): boolean {
  let left = JSON_VALUES;
  const holds = (value: unknown, depth: number): boolean => {
    if (left-- <= 0 || depth > JSON_DEPTH) return false;
    if (value === null || typeof value === "string" || typeof value === "boolean") return true;
    if (typeof value === "number") return Number.isFinite(value);
    if (typeof value !== "object") return false;
    const kind = Object.getPrototypeOf(value);
    if (Array.isArray(value)) return value.every((each) => holds(each, depth + 1)) && !("toJSON" in value);
    if ((kind !== Object.prototype && kind !== null) || "toJSON" in value) return false;
    const parts = Object.getOwnPropertyDescriptors(value);
    return Object.values(parts).every((part) => !part.get && !part.set && holds(part.value, depth + 1));
  };
  return holds(value, 0);
}
