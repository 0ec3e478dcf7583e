// Runs programs that leave their state to the next one, or that show values. Loaded by javascript.ts when the first
// such program comes; what comes on descriptor 3 and goes out on 4 and 5 is described in interpreter.rs.
import { randomBytes } from "node:crypto";
import { closeSync, createReadStream, readSync, writeFileSync, writeSync } from "node:fs";
import { createRequire } from "node:module";
import { Script } from "node:vm";
import { drainMicrotasks } from "bun:jsc";
import { rewritten } from "./rewrite.ts";
import { described, displayed, type Shown, type Source } from "./show.ts";

export interface Message { mode: number; head: Buffer; env: string; code: string }

/** What javascript.ts has for all programs. */
export interface Base {
  main: string;
  /** It has prepared nothing. */
  isNew: boolean;
  reseed(head: Buffer): void;
  replaceRandom(): void;
  /** False, with a line of standard error, where it cannot. */
  enterDirectory(pairs: string): boolean;
  setEnvironment(pairs: string): void;
  restoreEnvironment(pairs: string, before: Record<string, string | undefined>): void;
  passOnEnvironment(): void;
}

// Programs may put something else in the places of these.
const { process, Bun, Buffer, console, Promise, setImmediate, globalThis: everything } = globalThis as any;
const { defineProperty, getOwnPropertyDescriptor } = Object;
// What is waited for where only time is.
const never = new Int32Array(new SharedArrayBuffer(4));
const DISPLAY = 1, HEAD_BYTES = 26;

// How a program ends whose top level is not over: thrown, and shown nowhere.
class Exit extends Error {
  override name = "process.exit";
}

let number = 0;
// What errors name; of more than this the oldest are forgotten.
const SOURCES_BYTES = 16 << 20;
const sources = new Map<string, Source>();
let sourcesBytes = 0;
// Ends the program that runs, with an exit code; none while none does.
let finish: ((status: number) => void) | undefined;
// Ends the wait for output that nobody takes.
let hurry: (() => void) | undefined;
let isOnce = false, isGuarded = false;
// The exit code of a program that is being interrupted since it wants to end.
let wanted: number | undefined;
// Output may go through streams, which write when they can.
let hasStreams = false;
// What the program shows that is not shown yet.
let showing: unknown[] = [];

const context: any = {
  __proto__: null,
  call: undefined as (() => void) | undefined,
  // As `import` in a file of the working directory.
  async import(name: unknown, options?: ImportCallOptions) {
    const file = Bun.resolveSync(String(name), process.cwd());
    return options ? import(file, options) : import(file);
  },
  get dirname() {
    return process.cwd();
  },
  get filename() {
    return `${process.cwd()}/exec-${number}.ts`;
  },
  meta: {
    get dir() {
      return process.cwd();
    },
    get dirname() {
      return process.cwd();
    },
    get path() {
      return context.filename;
    },
    get filename() {
      return context.filename;
    },
    get file() {
      return `exec-${number}.ts`;
    },
    get url() {
      return Bun.pathToFileURL(context.filename).href;
    },
    get env() {
      return process.env;
    },
    main: true,
    resolve: (name: string) => {
      const file = Bun.resolveSync(name, process.cwd());
      return file.startsWith("/") ? Bun.pathToFileURL(file).href : file;
    },
    resolveSync: (name: string, from?: string) => Bun.resolveSync(name, from ?? process.cwd()),
    require: (name: string) => require(name),
  },
};

function require(name: string): unknown {
  return createRequire(context.filename)(name);
}

function provide(): void {
  defineProperty(everything, "__context", { value: context });
  Object.assign(require, {
    resolve: (name: string, options?: any) => createRequire(context.filename).resolve(name, options),
    cache: createRequire(import.meta.path).cache,
  });
  const module = { exports: {} };
  for (const [name, value] of Object.entries({ require, module, exports: module.exports })) {
    defineProperty(everything, name, { value, writable: true, configurable: true, enumerable: false });
  }
}

// A pipe that has ended may go on in the next program: what reads it has to begin anew.
function renewInput(): void {
  const value = (value: unknown) => ({ value, writable: true, configurable: true, enumerable: true });
  defineProperty(process, "stdin", {
    configurable: true,
    enumerable: true,
    get() {
      const stream: any = createReadStream("", { fd: 0, autoClose: false });
      stream.ref = stream.unref = () => stream;
      defineProperty(process, "stdin", value(stream));
      return stream;
    },
    set(stream) {
      defineProperty(process, "stdin", value(stream));
    },
  });
  Bun.stdin = Bun.file(0);
}

async function* inputLines(): AsyncGenerator<string> {
  const decoder = new TextDecoder();
  let rest = "";
  for await (const bytes of Bun.file(0).stream()) {
    const lines = (rest + decoder.decode(bytes, { stream: true })).split(/\r?\n/);
    rest = lines.pop()!;
    yield* lines;
  }
  if (rest) yield rest;
}

// Bun's own keeps what it has read beyond the line for the next call, which may be another program's.
function prompt(question = "Prompt", otherwise: string | null = null): string | null {
  write(1, otherwise === null ? `${question} ` : `${question} [${otherwise}] `);
  const line: number[] = [], byte = Buffer.alloc(1);
  while (readSync(0, byte) === 1) {
    if (byte[0] === 10) return Buffer.from(line).toString().replace(/\r$/, "") || otherwise || "";
    line.push(byte[0]);
  }
  return line.length > 0 ? Buffer.from(line).toString() : otherwise;
}

function declare(name: string, isAnew: boolean): void {
  const known = getOwnPropertyDescriptor(everything, name);
  const isPlain = known?.writable || known?.set;
  if (known && !known.configurable) return;
  if (known && isPlain && !isAnew) return;
  defineProperty(everything, name, { value: undefined, writable: true, configurable: true, enumerable: true });
}

function remember(file: string, source: Source): void {
  sources.set(file, source);
  sourcesBytes += source.code.length;
  for (const [oldest, { code }] of sources) {
    if (sourcesBytes <= SOURCES_BYTES || oldest === file) return;
    sources.delete(oldest);
    sourcesBytes -= code.length;
  }
}

// An object with the value of the last expression, or a promise of one; the value is undefined where the last
// statement is no expression.
function evaluate(code: string, file: string): unknown {
  remember(file, { code, moved: [] });
  const program = rewritten(code, number);
  sources.get(file)!.moved = program.moved;
  for (const name of program.names) declare(name, program.anew.has(name));
  let result: any;
  for (const script of program.scripts) result = (0, eval)(`${script}\n//# sourceURL=${file}`);
  const value = (given: any) => ({ value: program.isDeclaration ? undefined : given?.value });
  return result instanceof Promise ? result.then(value) : value(result);
}

// SIGINT ends what is called here, also where it never pauses.
const guard = new Script("__context.call()", { filename: import.meta.path });

function guarded(call: () => void): void {
  context.call = call;
  isGuarded = true;
  try {
    guard.runInThisContext({ breakOnSigint: true } as any);
  } catch {
    if (wanted === undefined) interrupted();
    else end(wanted);
  }
  isGuarded = false;
  wanted = undefined;
}

function interrupted(): void {
  if (!finish) return hurry?.();
  complain("interrupted");
  end(130);
}

// Comes where the interrupt had no effect: bun loses one that comes just as guarded code ends, and gives it to what
// is guarded next.
function terminated(): void {
  interrupted();
  context.call = () => Atomics.wait(never, 0, 0, 20);
  try {
    guard.runInThisContext({ breakOnSigint: true } as any);
  } catch {
    // It was there.
  }
}

function end(status: number): void {
  const known = finish;
  finish = undefined;
  known?.(status);
}

// Nothing of the program is to run after this.
function exit(code?: number | string | null): never {
  const status = Number(code ?? process.exitCode ?? 0) & 255;
  if (isGuarded && finish) {
    // No `catch` and no `finally` keeps an interrupt. What waits for its turn is lost by it, so the end comes later.
    wanted = status;
    process.kill(process.pid, "SIGINT");
    Atomics.wait(never, 0, 0, 1000);
  }
  end(status);
  throw new Exit("the program has ended");
}

// `from`: the program whose top level has failed, which may have been given up before.
function failed(error: unknown, from = number): void {
  if (error instanceof Exit) return;
  complain(`${described(error, sources)}\n\nBun v${Bun.version} (Linux ${process.arch})`);
  if (isOnce) process.exit(1);
  if (from === number) end(1);
}

function complain(text: string): void {
  write(2, `${text}\n`);
}

// All of it: a pipe may take less.
function write(descriptor: number, text: string): void {
  const bytes = Buffer.from(text);
  for (let at = 0; at < bytes.length; ) {
    try {
      at += writeSync(descriptor, bytes, at);
    } catch (error: any) {
      if (error.code !== "EAGAIN") return;
      Atomics.wait(never, 0, 0, 1);
    }
  }
}

function show(value: unknown): void {
  const out = (shown: Shown) => {
    if (shown.complaint) complain(shown.complaint);
    write(5, `${shown.line}\n`);
  };
  const shown = displayed(value, sources);
  if (shown instanceof Promise) showing.push(shown.then(out));
  else out(shown);
}

function display(...values: unknown[]): void {
  values.forEach(show);
}

const turn = () => new Promise((resolve: () => void) => setImmediate(resolve));

// Returns the exit code.
async function run({ head, code }: Message): Promise<number> {
  const isShown = (head[1] & DISPLAY) !== 0, own = ++number;
  const status = new Promise((resolve: (status: number) => void) => (finish = resolve));
  const over = async ({ value }: any) => {
    // It may have been given up before.
    if (own !== number || !finish) return;
    if (isShown && value !== undefined) show(value);
    while (showing.length > 0) await Promise.all(showing.splice(0));
    // What nobody has caught is told at the end of a turn.
    await turn();
    if (own === number) end(Number(process.exitCode ?? 0) & 255);
  };
  if (!isOnce) renewInput();
  if (isShown) {
    defineProperty(everything, "display", { value: display, writable: true, configurable: true, enumerable: false });
  }
  listen();
  const begin = () => {
    let given: unknown;
    try {
      given = evaluate(code, `exec-${own}.ts`);
    } catch (error) {
      return failed(error);
    }
    (given instanceof Promise ? given.then(over) : over(given)).catch((error: unknown) => failed(error, own));
  };
  if (isOnce) begin();
  // In a turn of its own: what waits for nothing but itself is guarded as well. The turn after it comes at once,
  // and tells of promises that nobody caught.
  else setImmediate(() => {
    setImmediate(() => {});
    // An interrupt may have come before it.
    if (own !== number || !finish) return;
    guarded(() => { begin(); drainMicrotasks(); });
  });
  const exit = await status;
  // Between programs it means what it means to all.
  process.off("SIGTERM", terminated);
  hasStreams ||= /stdout|stderr|import|require/.test(code);
  if (hasStreams) await flushed();
  showing = [];
  if (!isOnce && (everything as any).display === display) delete (everything as any).display;
  return exit;
}

// All that was written to the streams of output is with the agent, unless an interrupt comes before. A write that
// waits is known to what bun writes by alone.
function flushed(): Promise<unknown> {
  const written = [process.stdout, process.stderr].map((stream) => {
    const sink = Object.getOwnPropertySymbols(stream).find((name) => name.description === "kWriteStreamFastPath");
    return sink && stream[sink]?.flush?.();
  });
  return Promise.race([Promise.allSettled(written), new Promise((resolve: () => void) => (hurry = resolve))]);
}

const LISTENERS: [string, (given: any) => void][] = [
  ["uncaughtException", (error) => hears("uncaughtException") && failed(error)],
  ["unhandledRejection", (error) => hears("unhandledRejection") && failed(error)],
];
// A program that bun ends with ends by these signals.
const SIGNALS: typeof LISTENERS = [["SIGINT", interrupted], ["SIGTERM", terminated]];

// Whether no listener of the program's own does.
function hears(name: string): boolean {
  return process.listenerCount(name) === 1;
}

function listen(): void {
  for (const [name, listener] of isOnce ? LISTENERS : [...LISTENERS, ...SIGNALS]) {
    if (!process.listeners(name).includes(listener)) process.on(name, listener);
  }
}

// Returns the exit code. What is to hold for this program alone is undone.
async function serve(message: Message, base: Base): Promise<number> {
  const before = { ...process.env }, at = process.cwd();
  if (!arrange(message, base)) return 1;
  process.exitCode = 0;
  const status = await run(message);
  process.exitCode = 0;
  base.restoreEnvironment(message.env, before);
  if (message.env.startsWith("=")) base.enterDirectory(`=${at}\0`);
  return status;
}

// What a message has beside code. False: its working directory cannot be entered.
function arrange({ head, env }: Message, base: Base): boolean {
  base.reseed(head);
  if (!base.enterDirectory(env)) return false;
  base.setEnvironment(env);
  return true;
}

async function* messages(): AsyncGenerator<Message> {
  let data = Buffer.alloc(0);
  for await (const bytes of Bun.file(3).stream()) {
    data = data.length > 0 ? Buffer.concat([data, bytes]) : Buffer.from(bytes);
    while (data.length >= HEAD_BYTES) {
      const middle = HEAD_BYTES + data.readUInt32BE(18), end = middle + data.readUInt32BE(22);
      if (data.length < end) break;
      const head = data.subarray(0, HEAD_BYTES);
      const env = data.toString("utf8", HEAD_BYTES, middle), code = data.toString("utf8", middle, end);
      data = data.subarray(end);
      yield { mode: head[0], head, env, code };
    }
  }
}

// Math.random's state is to be set after a refresh, too.
function seed(base: Base): void {
  const head = randomBytes(HEAD_BYTES);
  head[17] |= 1;
  base.reseed(head);
  base.replaceRandom();
}

/** Has in memory what every program here needs; leaves nothing behind. */
export async function prime(): Promise<void> {
  const code = "import { a } from 'b';\nfunction f<T>(c: T): string { return `${c}` }\nexport const d = await f(a);\nd";
  rewritten(code, 0);
  for (const script of rewritten("const { $a } = await { $a: 1 } as any;\n[$a]", 0).scripts) await (0, eval)(script);
  delete everything.$a;
  displayed([1], sources);
}

/** Serves programs that leave this process in place, for ever. */
export async function keep(first: Message, base: Base): Promise<never> {
  const leave = process.exit.bind(process);
  provide();
  if (base.isNew) seed(base);
  base.passOnEnvironment();
  console[Symbol.asyncIterator] = inputLines;
  everything.prompt = prompt;
  process.exit = exit;
  // Between programs nothing else may keep the process here.
  setInterval(() => {}, 2 ** 31 - 1);
  const answer = async (message: Message) => {
    const status = await serve(message, base);
    try {
      writeSync(4, `${status}\n`);
    } catch {
      // The program has closed it: the end of the process tells.
      leave(status);
    }
  };
  await answer(first);
  for await (const message of messages()) await answer(message);
  // The agent is gone.
  leave(0);
  return undefined as never;
}

/** Begins a program that shows values, and that bun ends with. */
export function once(message: Message, base: Base): void {
  provide();
  base.passOnEnvironment();
  isOnce = true;
  // This tells the agent that the program begins.
  closeSync(3);
  closeSync(4);
  if (!arrange(message, base)) process.exit(1);
  // Bun goes on with it, and ends when nothing is left to do.
  writeFileSync(base.main, "");
  process.on("beforeExit", () => {
    if (!finish) return;
    finish = undefined;
    complain("the program waits, at its top level, for what will never come");
    process.exitCode ??= 13;
  });
  run(message);
}
