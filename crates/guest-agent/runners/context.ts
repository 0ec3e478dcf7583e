// Runs programs that leave their state to the next one, or that display values. Loaded by javascript.ts when the first
// such program arrives. interpreter.rs describes the messages on descriptor 3 and the control messages on 4; results go
// to 5.
import { randomBytes } from "node:crypto";
import { closeSync, createReadStream, readSync, writeFileSync, writeSync } from "node:fs";
import Module, { createRequire } from "node:module";
import { Script } from "node:vm";
import { drainMicrotasks } from "bun:jsc";
import { rewritten } from "./rewrite.ts";
import { described, displayed, frames, type Shown, type Source } from "./show.ts";

export interface Message { mode: number; head: Buffer; env: string; code: string }

/** The functions of javascript.ts for all programs. */
export interface Base {
  main: string;
  /** No preparation has run. */
  isNew: boolean;
  reseed(head: Buffer): void;
  replaceRandom(): void;
  /** Returns false, after a line on standard error, if the directory cannot be entered. */
  enterDirectory(pairs: string): boolean;
  setEnvironment(pairs: string): void;
  restoreEnvironment(pairs: string, before: Record<string, string | undefined>): void;
  passOnEnvironment(): void;
  /** Sets the arguments of the program, each followed by NUL, unless there are none. */
  setArguments(bytes: Buffer): void;
  /** Sets the clocks that count from a program's start. */
  setClocks(): void;
}

// Programs may replace these: every global that is used here must be one of them.
const {
  process, Bun, Buffer, console, Promise, setImmediate, setInterval, setTimeout, Atomics, Error, Int32Array, Map, Number, Object, Proxy,
  Reflect, SharedArrayBuffer, String, Symbol, TextDecoder, eval: evaluateScript, globalThis: everything,
} = globalThis as any;
const { defineProperty, getOwnPropertyDescriptor } = Object;
// Waiting for it is a way to sleep.
const never = new Int32Array(new SharedArrayBuffer(4));
const DISPLAY = 1, HEAD_BYTES = 30;

// Thrown to end a program whose top level has not finished. It is not shown.
class Exit extends Error {
  override name = "process.exit";
}

let number = 0;
// The programs that errors may refer to. Above this size the oldest are dropped.
const SOURCES_BYTES = 16 << 20;
const sources = new Map<string, Source>();
let sourcesBytes = 0;
// Ends the running program with an exit code; undefined while none is running.
let finish: ((status: number) => void) | undefined;
// Ends the wait for output that is not being read.
let hurry: (() => void) | undefined;
let isOnce = false, isGuarded = false, main = "";
// The exit code of a program that is being interrupted because it has called process.exit.
let wanted: number | undefined;
// Output may go through streams, which write later.
let hasStreams = false;
// Values that are still being displayed.
let showing: unknown[] = [];

const context: any = {
  __proto__: null,
  call: undefined as (() => void) | undefined,
  // Like `import` in a file of the working directory.
  async import(name: unknown, options?: ImportCallOptions) {
    const file = import.meta.resolveSync(String(name), context.filename);
    return options ? import(file, options) : import(file);
  },
  get dirname() {
    return process.cwd();
  },
  get filename() {
    return isOnce ? main : `${process.cwd()}/exec-${number}.ts`;
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
      return isOnce ? main.slice(main.lastIndexOf("/") + 1) : `exec-${number}.ts`;
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
  const module: any = new Module(context.filename);
  Object.assign(module, { id: ".", filename: context.filename, loaded: true });
  (require as any).main = process.mainModule = module;
  for (const [name, value] of Object.entries({ require, module, exports: module.exports })) {
    defineProperty(everything, name, { value, writable: true, configurable: true, enumerable: false });
  }
}

// An input that has ended may continue in the next program, which therefore needs new readers.
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

// Bun's own `prompt` keeps input beyond the line for the next call, which may be another program's.
function prompt(question = "Prompt", otherwise: string | null = null): string | null {
  write(1, otherwise === null ? `${question} ` : `${question} [${otherwise}] `);
  const line: number[] = [], byte = Buffer.alloc(1);
  while (readSync(0, byte) === 1) {
    if (byte[0] === 10) return Buffer.from(line).toString().replace(/\r$/, "") || otherwise || "";
    line.push(byte[0]);
  }
  return line.length > 0 ? Buffer.from(line).toString() : otherwise;
}

function declare(name: string, isUninitialized: boolean): void {
  const known = getOwnPropertyDescriptor(everything, name);
  const isPlain = known?.writable || known?.set;
  if (known && !known.configurable) return;
  if (known && isPlain && !isUninitialized) return;
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

// Returns an object with the value of the last expression, or a promise of one. The value is undefined if the last
// statement is not an expression.
function evaluate(code: string, file: string): unknown {
  remember(file, { code, moved: [] });
  const program = rewritten(code, number);
  sources.get(file)!.moved = program.moved;
  for (const name of program.names) declare(name, program.uninitialized.has(name));
  let result: any;
  for (const script of program.scripts) result = (0, evaluateScript)(`${script}\n//# sourceURL=${file}`);
  const value = (given: any) => ({ value: program.isDeclaration ? undefined : given?.value });
  return result instanceof Promise ? result.then(value) : value(result);
}

// The callbacks of `process.nextTick` in guarded code. Bun runs its own only after the microtasks that `drainMicrotasks`
// runs, and those of a program's first turn before them.
const ticks: [(...given: unknown[]) => void, unknown[]][] = [];
// Read when it is needed: see javascript.ts.
let laterTick: typeof process.nextTick;

function nextTick(callback: (...given: unknown[]) => void, ...given: unknown[]): void {
  if (isGuarded && typeof callback === "function") ticks.push([callback, given]);
  else laterTick(callback, ...given);
}

function drain(): void {
  do {
    for (let tick = ticks.shift(); tick; tick = ticks.shift()) {
      try {
        tick[0](...tick[1]);
      } catch (error) {
        laterTick(() => {
          throw error;
        });
      }
    }
    drainMicrotasks();
  } while (ticks.length > 0);
}

// SIGINT ends the function that is called here, even if it never pauses.
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
  // Those that an interrupt has left.
  for (const [callback, given] of ticks.splice(0)) laterTick(callback, ...given);
}

function interrupted(): void {
  if (!finish) return hurry?.();
  complain("interrupted");
  end(130);
}

// Handles an interrupt outside of guarded code, and SIGTERM, which follows if interrupts had no effect: bun loses an
// interrupt that arrives just as guarded code ends, and delivers it to the next guarded code.
function terminated(): void {
  interrupted();
  context.call = () => Atomics.wait(never, 0, 0, 20);
  try {
    guard.runInThisContext({ breakOnSigint: true } as any);
  } catch {
    // This was the lost interrupt.
  }
}

// `isWhole`: nothing that the program has started is left.
function end(status: number, isWhole = false): void {
  const known = finish;
  finish = undefined;
  if (known && !isWhole && hasWaited) isAbandoned = true;
  known?.(status);
}

// What a program may use to start something that it does not wait for. Without any, a context's programs end at once.
const WAITS =
  /\b(?:async|await|Promise|then|import|require|process|Bun|fetch|on[a-z]*|set(?:Timeout|Immediate|Interval)|queueMicrotask|Worker|WebSocket|EventSource|BroadcastChannel|MessageChannel|XMLHttpRequest|console\s*\[|globalThis|eval|Function)\b/;
// A program of this context contained one of them. An earlier one was ended while something was pending, for which later
// ones do not wait.
let hasWaited = false, isAbandoned = false;
// Keeps the process running between programs.
let keepAlive: any;
// Lets bun continue after this file, which is needed to learn that it has nothing left to do.
let leave: (() => void) | undefined;
let onIdle: (() => void) | undefined;
const PROBE_MS = 10;

// Resolves when nothing is pending that would keep a one-shot program running.
function idle(): Promise<void> {
  leave?.();
  leave = undefined;
  if (!process.listeners("beforeExit").includes(becameIdle)) process.on("beforeExit", becameIdle);
  keepAlive.unref();
  return new Promise((resolve: () => void) => (onIdle = resolve));
}

function becameIdle(): void {
  keepAlive.ref();
  isAbandoned = false;
  onIdle?.();
  onIdle = undefined;
}

// As `idle`, but only looks whether something is pending.
function probe(): Promise<unknown> {
  const timer = new Promise((resolve: () => void) => setTimeout(resolve, PROBE_MS).unref());
  return Promise.race([idle(), timer]);
}

// Makes the console show errors, and where it was called, without the frames of the runner.
function cleanConsole(): void {
  const shown = (given: unknown) => {
    if (!(given instanceof Error)) return given;
    return { [Bun.inspect.custom]: () => `${described(given, sources)}\n` };
  };
  for (const name of ["log", "info", "debug", "warn", "error"]) {
    const native = console[name];
    const { [name]: clean } = { [name]: (...given: unknown[]) => native.apply(console, given.map(shown)) };
    console[name] = clean;
  }
  console.trace = function trace(...given: unknown[]) {
    if (given.length > 0) console.log(...given);
    const stack = Bun.inspect(new Error()).split("\n").filter((line: string) => /^ +at /.test(line));
    for (const line of frames(stack, sources)) console.log(line);
  };
}

// Intervals, servers and workers are meant to stay: they do not keep a program of a context from ending.
function letStay(): void {
  const staying = (owner: any, name: string) => {
    const native = owner[name];
    const { [name]: replaced } = { [name]: (...given: unknown[]) => {
      const started = native.apply(owner, given);
      started?.unref?.();
      return started;
    } };
    defineProperty(owner, name, { ...getOwnPropertyDescriptor(owner, name), value: replaced });
  };
  staying(everything, "setInterval");
  staying(Bun, "serve");
  staying(Bun, "listen");
  everything.Worker = new Proxy(everything.Worker, {
    construct(target: any, given: unknown[], newTarget: any) {
      const worker = Reflect.construct(target, given, newTarget);
      worker.unref?.();
      return worker;
    },
  });
}

// No code of the program runs after this.
function exit(code?: number | string | null): never {
  const status = Number(code ?? process.exitCode ?? 0) & 255;
  if (isGuarded && finish) {
    // No `catch` and no `finally` can stop an interrupt. It drops all pending callbacks, so `end` is called later.
    wanted = status;
    process.kill(process.pid, "SIGINT");
    Atomics.wait(never, 0, 0, 1000);
  }
  end(status);
  throw new Exit("the program has ended");
}

// `from`: the program whose top level has failed. It may have been abandoned before.
function failed(error: unknown, from = number): void {
  if (error instanceof Exit) return;
  complain(`${described(error, sources)}\n\nBun v${Bun.version} (Linux ${process.arch})`);
  if (isOnce) process.exit(1);
  if (from === number) end(1);
}

function complain(text: string): void {
  write(2, `${text}\n`);
}

// Writes everything: a pipe may accept less at once.
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
    // It may have been abandoned before.
    if (own !== number || !finish) return;
    hasWaited ||= value instanceof Promise;
    let shown = value;
    if (value instanceof Promise) {
      const settled = value.then((result: unknown) => (shown = result));
      // It may be one that is never settled.
      if (isOnce || isAbandoned) await settled;
      else await Promise.race([settled, idle()]);
      if (own !== number || !finish) return;
    }
    if (isShown && shown !== undefined) show(shown);
    while (showing.length > 0) await Promise.all(showing.splice(0));
    if (isOnce) return void (finish = undefined);
    // Uncaught rejections are reported at the end of a turn.
    await turn();
    if (hasWaited) await (isAbandoned ? probe() : idle());
    if (own === number) end(Number(process.exitCode ?? 0) & 255, true);
  };
  if (!isOnce) {
    renewInput();
    hasWaited ||= WAITS.test(code);
  }
  if (isShown) {
    defineProperty(everything, "display", { value: display, writable: true, configurable: true, enumerable: false });
  }
  listen();
  const begin = () => {
    let given: unknown;
    try {
      given = evaluate(code, isOnce ? main : `exec-${own}.ts`);
    } catch (error) {
      return failed(error);
    }
    (given instanceof Promise ? given.then(over) : over(given)).catch((error: unknown) => failed(error, own));
  };
  // As in a file, ticks come before promises, and nothing of the runner is in stack traces.
  if (isOnce) setImmediate(begin);
  // It runs in a separate turn, so that an endless chain of microtasks is guarded as well. The turn after it follows at
  // once and reports uncaught rejections.
  else setImmediate(() => {
    setImmediate(() => {});
    // An interrupt may have arrived before.
    if (own !== number || !finish) return;
    guarded(() => { begin(); drain(); });
  });
  const exit = await status;
  if (keepAlive) {
    if (isAbandoned) await probe();
    onIdle = undefined;
    keepAlive.ref();
  }
  // Between programs the signal has its default meaning.
  process.off("SIGTERM", terminated);
  hasStreams ||= /stdout|stderr|import|require/.test(code);
  if (hasStreams) await flushed();
  showing = [];
  if (!isOnce && (everything as any).display === display) delete (everything as any).display;
  return exit;
}

// Waits until everything that was written to the output streams has been passed to the agent, or until an interrupt.
// Only bun's internal sink knows whether a write is pending.
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
// These signals end a one-shot program by themselves.
const SIGNALS: typeof LISTENERS = [["SIGINT", terminated], ["SIGTERM", terminated]];

// Whether the program has no listener of its own.
function hears(name: string): boolean {
  return process.listenerCount(name) === 1;
}

function listen(): void {
  for (const [name, listener] of isOnce ? LISTENERS : [...LISTENERS, ...SIGNALS]) {
    if (!process.listeners(name).includes(listener)) process.on(name, listener);
  }
}

// Returns the exit code. Settings of this program are undone.
async function serve(message: Message, base: Base): Promise<number> {
  const before = { ...process.env }, at = process.cwd();
  if (!arrange(message, base)) return 1;
  const status = await run(message);
  // Bun keeps the code of an earlier program if it is set to undefined.
  if (process.exitCode !== undefined) process.exitCode = 0;
  base.restoreEnvironment(message.env, before);
  if (message.env.startsWith("=")) base.enterDirectory(`=${at}\0`);
  return status;
}

// Applies everything in a message except the code. Returns false if the working directory cannot be entered.
function arrange({ head, env }: Message, base: Base): boolean {
  base.reseed(head);
  if (!base.enterDirectory(env)) return false;
  base.setEnvironment(env);
  return true;
}

async function* messages(base: Base): AsyncGenerator<Message> {
  let data = Buffer.alloc(0);
  for (;;) {
    // A reader keeps the process running. There is none while a program runs.
    const reader = Bun.file(3).stream().getReader();
    let end = Infinity, middle = 0, from = 0;
    while (data.length < end) {
      const { value, done } = await reader.read();
      if (done) return;
      data = data.length > 0 ? Buffer.concat([data, value]) : Buffer.from(value);
      if (data.length < HEAD_BYTES) continue;
      middle = HEAD_BYTES + data.readUInt32BE(18);
      from = middle + data.readUInt32BE(26);
      end = from + data.readUInt32BE(22);
    }
    await reader.cancel();
    const head = data.subarray(0, HEAD_BYTES);
    const env = data.toString("utf8", HEAD_BYTES, middle), code = data.toString("utf8", from, end);
    base.setArguments(data.subarray(middle, from));
    data = data.subarray(end);
    yield { mode: head[0], head, env, code };
  }
}

// Makes the state of Math.random settable, as a refresh requires.
function seed(base: Base): void {
  const head = randomBytes(HEAD_BYTES);
  head[17] |= 1;
  base.reseed(head);
  base.replaceRandom();
}

/** Loads into memory the code that every program here needs. Leaves nothing behind. */
export async function prime(): Promise<void> {
  const code = "import { a } from 'b';\nfunction f<T>(c: T): string { return `${c}` }\nexport const d = await f(a);\nd";
  rewritten(code, 0);
  for (const script of rewritten("const { $a } = await { $a: 1 } as any;\n[$a]", 0).scripts) await (0, eval)(script);
  delete everything.$a;
  displayed([1], sources);
}

/** Runs programs after which this process continues. Returns when bun must continue with the entry file. */
export async function keep(first: Message, base: Base): Promise<void> {
  const exitProcess = process.exit.bind(process);
  provide();
  if (base.isNew) seed(base);
  base.passOnEnvironment();
  console[Symbol.asyncIterator] = inputLines;
  everything.prompt = prompt;
  process.exit = exit;
  laterTick = process.nextTick.bind(process);
  process.nextTick = nextTick;
  // Between programs nothing else may keep the process running.
  keepAlive = setInterval(() => {}, 2 ** 31 - 1);
  letStay();
  cleanConsole();
  const answer = async (message: Message) => {
    const status = await serve(message, base);
    try {
      writeSync(4, `${status}\n`);
    } catch {
      // The program has closed it. The agent notices the end of the process.
      exitProcess(status);
    }
  };
  const all = async () => {
    await answer(first);
    for await (const message of messages(base)) await answer(message);
    // The agent is gone.
    exitProcess(0);
  };
  await new Promise((resolve: () => void) => {
    leave = () => {
      writeFileSync(base.main, "");
      resolve();
    };
    all();
  });
}

/** Starts a program that displays values, and with which bun ends. */
export async function once(message: Message, base: Base): Promise<void> {
  isOnce = true;
  main = base.main;
  provide();
  cleanConsole();
  base.passOnEnvironment();
  // Reports to the agent that the program starts.
  closeSync(3);
  closeSync(4);
  if (!arrange(message, base)) process.exit(1);
  // Bun continues with this file, and exits when nothing is left to do.
  writeFileSync(base.main, "");
  process.on("beforeExit", () => {
    if (!finish) return;
    finish = undefined;
    complain("the program's top level waits for a promise that is never settled");
    process.exitCode ??= 13;
  });
  run(message);
  // The program's first turn, and the report of its uncaught rejections.
  await turn();
  await turn();
}
