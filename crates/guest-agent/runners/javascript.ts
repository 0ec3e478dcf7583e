// Bun preloads this before main.ts, an empty file. A program that arrives is written to main.ts, and bun runs it as any
// file. It may wait for a long time. interpreter.rs describes the messages on descriptor 3 and the control messages on
// descriptor 4.

// Bun creates the queue of `process.nextTick` when something first reads that property, and lets the turn that does so
// run its ticks before its promises. Built-in modules read it while they load. They get a function that reads it when it
// is called, because that turn must be one of the program.
const program = globalThis.process;
const nextTick = (...given: Parameters<typeof process.nextTick>) => program.nextTick(...given);
const untouched = new Proxy(program, {
  get: (target, name) => (name === "nextTick" ? nextTick : Reflect.get(target, name, target)),
});

function load(names: string[]): any[] {
  globalThis.process = untouched;
  const modules = names.map((name) => require(name));
  globalThis.process = program;
  return modules;
}

const [{ closeSync, readSync, rmSync, writeFileSync, writeSync }, { tmpdir }] = load(["node:fs", "node:os"]);

const MAIN = process.argv[1];
const chunk = Buffer.allocUnsafeSlow(65536);
const HEAD_BYTES = 30;

// Each argument ends with a NUL. Without any, those of an earlier program stay.
function setArguments(bytes: Buffer): void {
  if (bytes.length === 0) return;
  const given = bytes.toString("utf8", 0, bytes.length - 1).split("\0");
  for (const argv of new Set([process.argv, Bun.argv])) argv.splice(2, Infinity, ...given);
}

function receive(): { mode: number; head: Buffer; env: string; code: string } {
  let data = chunk, length = 0, middle = 0, from = 0, end = HEAD_BYTES;
  while (length < end) {
    if (length === data.length) data = Buffer.concat([data], data.length * 2);
    const count = readSync(3, data, length, data.length - length, null);
    // The agent is gone.
    if (count === 0) process.exit(0);
    length += count;
    if (middle === 0 && length >= HEAD_BYTES) {
      middle = HEAD_BYTES + data.readUInt32BE(18);
      from = middle + data.readUInt32BE(26);
      end = from + data.readUInt32BE(22);
    }
  }
  const env = middle > HEAD_BYTES ? data.toString("utf8", HEAD_BYTES, middle) : "";
  setArguments(data.subarray(middle, from));
  return { mode: data[0], head: data, env, code: data.toString("utf8", from, end) };
}

// The state of Math.random cannot be set, and may have been copied to other VMs. In an interpreter that waits,
// xoshiro128** replaces it.
let a = 1, b = 2, c = 3, d = 4;

function next(): number {
  const scrambled = Math.imul(b, 5);
  const result = Math.imul((scrambled << 7) | (scrambled >>> 25), 9) >>> 0;
  const shifted = b << 9;
  c ^= a; d ^= b; b ^= c; a ^= d; c ^= shifted;
  d = (d << 11) | (d >>> 21);
  return result;
}

function replaceRandom(): void {
  const { random } = { random: () => (next() >>> 5) * 2 ** -27 + (next() >>> 6) * 2 ** -53 };
  Object.defineProperty(Math, "random", { value: random, writable: true, configurable: true, enumerable: false });
}

// A flag of messages: bytes that bun has drawn ahead may have been copied to other VMs.
const DROP_DRAWN = 4;
// Bun serves UUIDs and up to 256 random bytes from a store of 2 KiB, which it refills when the rest is too small.
const STORE_BYTES = 2048, FROM_STORE_BYTES = 256;

function dropDrawn(): void {
  const bytes = new Uint8Array(FROM_STORE_BYTES);
  for (let drawn = 0; drawn < STORE_BYTES; drawn += bytes.length) getRandomValues(bytes);
}

// The program may replace it.
const getRandomValues = crypto.getRandomValues.bind(crypto);

function reseed(head: Buffer): void {
  if ((head[1] & DROP_DRAWN) !== 0) dropDrawn();
  // Seeds are odd; 0 means none.
  if (head[17] === 0) return;
  a = head.readInt32BE(2); b = head.readInt32BE(6); c = head.readInt32BE(10); d = head.readInt32BE(14);
}

// A pair with an empty name, always the first, is the working directory.
function enterDirectory(pairs: string): boolean {
  if (!pairs.startsWith("=")) return true;
  const directory = pairs.slice(1, pairs.indexOf("\0"));
  try {
    process.chdir(directory);
    return true;
  } catch (error: any) {
    writeSync(2, `cannot enter the working directory ${directory}: ${error.message}\n`);
    return false;
  }
}

function setEnvironment(pairs: string): void {
  for (const pair of pairs.split("\0")) {
    const at = pair.indexOf("=");
    if (at > 0) process.env[pair.slice(0, at)] = pair.slice(at + 1);
  }
  environment = { ...process.env };
}

// By default, Bun.spawn passes on the environment that bun was started with. Here it is the one that the program started
// with.
let environment: Record<string, string | undefined> | undefined;

function passOnEnvironment(): void {
  const options = (given: any) => ({ ...given, env: given?.env ?? environment });
  for (const name of ["spawn", "spawnSync"] as const) {
    const native = Bun[name] as any;
    const passing = {
      [name]: (first: any, second?: any) =>
        Array.isArray(first) ? native(first, options(second)) : native(options(first)),
    };
    (Bun as any)[name] = passing[name];
  }
}

// Bun takes longer to load a file than most programs take to run. A program whose lines only print constants runs without
// that: it cannot fail, wait, or find out. Simple expressions, since the time of complex ones is noticeable.
const PRINT = /^\s*console\.(?:log|error|info|warn|debug)\(([^()`\\]*)\);?\s*$/;
const CONSTANTS = /^(?:[\d\s.,+*/-]|"[^"]*"|'[^']*')*$/;
const PRINTER_LENGTH = 1024;

function printer(code: string): (() => void) | undefined {
  if (code.length > PRINTER_LENGTH) return undefined;
  for (const line of code.trimEnd().split("\n")) {
    const print = PRINT.exec(line);
    if (!print || !CONSTANTS.test(print[1])) return undefined;
  }
  try {
    return (0, eval)(`() => {"use strict";${code}\n}`);
  } catch {
    return undefined;
  }
}

// The built-in modules that read `process.nextTick` while they load. For a file that imports one, the queue is there
// before the file's first turn.
const QUEUES =
  /(?:\bfrom|\bimport)\s*["'](?:node:)?(?:crypto|fs|http2?|https|net|stream|stream\/promises|test|tls|tty|undici|zlib)["']/;

function createsQueue(code: string): boolean {
  return code.includes("import") && QUEUES.test(code);
}

// The entry file has one name, whatever the program's own name was: JSX is recognized by its syntax, if the code is
// none without it. Bun reports errors of other code as TypeScript.
function hasJsx(code: string): boolean {
  if (!code.includes("</") && !code.includes("/>")) return false;
  const fits = (loader: "ts" | "tsx") => {
    try {
      new Bun.Transpiler({ loader }).transformSync(code);
      return true;
    } catch {
      return false;
    }
  };
  return !fits("ts") && fits("tsx");
}

function loadAsJsx(code: string): void {
  const filter = new RegExp(`^${MAIN.replace(/[.*+?^${}()|[\]\\]/g, "\\$&")}$`);
  // Bun does not run content from here that is not a module.
  const contents = `${code}\nexport {};\n`;
  Bun.plugin({ name: "main", setup: (build) => void build.onLoad({ filter }, () => ({ contents, loader: "tsx" })) });
}

// The clocks that count from the start of the process, which may have waited for a long time, and may have been saved
// meanwhile.
let zero = 0, origin = performance.timeOrigin, started = 0, nanosecondsBefore = 0;
const now = performance.now.bind(performance), uptime = process.uptime.bind(process);

function replaceClocks(): void {
  const { mark, measure } = performance as any, nanoseconds = Bun.nanoseconds;
  const clocks = {
    now: () => now() - zero,
    mark: (name: string, options?: any) =>
      mark.call(performance, name, { ...options, startTime: options?.startTime ?? clocks.now() }),
    measure(name: string, first?: any, end?: string) {
      const isOptions = first !== null && typeof first === "object";
      if (isOptions || end !== undefined) return measure.call(performance, name, ...(isOptions ? [first] : [first, end]));
      return measure.call(performance, name, { start: first ?? 0, end: clocks.now() });
    },
  };
  Object.assign(performance, clocks);
  Object.defineProperty(performance, "timeOrigin", { get: () => origin, configurable: true, enumerable: true });
  const processes = { uptime: () => uptime() - started }, buns = { nanoseconds: () => nanoseconds() - nanosecondsBefore };
  Object.assign(process, processes);
  Object.assign(Bun, buns);
  setClocks = () => {
    [zero, started, nanosecondsBefore, origin] = [now(), uptime(), nanoseconds(), Date.now()];
  };
}

// Called when a program starts in an interpreter that has waited.
let setClocks = () => {};

function restoreEnvironment(pairs: string, before: Record<string, string | undefined>): void {
  for (const pair of pairs.split("\0")) {
    const name = pair.slice(0, Math.max(0, pair.indexOf("=")));
    if (!name) continue;
    if (before[name] === undefined) delete process.env[name];
    else process.env[name] = before[name];
  }
}

// The modes of messages: a program with which bun ends, one that must not use the shortcut, and a preparation. Any other
// mode is a context.

const ONCE = "o".charCodeAt(0), FILE = "f".charCodeAt(0), PREPARE = "p".charCodeAt(0);
// The built-in modules of context.ts and of those that it imports.
const OF_CONTEXTS = ["node:crypto", "node:module", "node:vm", "bun:jsc"];

function loadContext(): Promise<any> {
  load(OF_CONTEXTS);
  return import(`${import.meta.dir}/context.ts`);
}

async function prepare({ head, env, code }: ReturnType<typeof receive>, count: number): Promise<void> {
  reseed(head);
  const before = { ...process.env }, at = process.cwd();
  let status = enterDirectory(env) ? 0 : 1;
  setEnvironment(env);
  // Run it in all ways in which programs run, so that the code for them is in memory.
  const file = `${tmpdir()}/prepare-${process.pid}-${count}.ts`;
  if (status === 0) try {
    writeFileSync(file, code);
    await import(file);
    printer("console.log('ready', 1)");
    createsQueue(code);
    hasJsx(code);
    const { prime } = await loadContext();
    await prime();
  } catch (error) {
    console.error(error);
    status = 1;
  } finally {
    rmSync(file, { force: true });
  }
  restoreEnvironment(env, before);
  if (env.startsWith("=")) process.chdir(at);
  // Output is written at the end of a turn of the event loop.
  await new Promise((resolve) => setTimeout(resolve, 0));
  if (count === 1) {
    replaceRandom();
    replaceClocks();
    setClocks();
  }
  // Otherwise the collector would run beside the next program.
  Bun.gc(true);
  writeSync(4, `${status}\n`);
}

// The options that start this file are not those of the program.
process.execArgv = [];
for (let count = 1; ; count++) {
  const message = receive();
  const { mode, head, env, code } = message;
  if (mode === PREPARE) {
    await prepare(message, count);
    continue;
  }
  setClocks();
  const isOnce = mode === ONCE || mode === FILE;
  // The lowest flag requests that values are displayed.
  if (!isOnce || (head[1] & 1) !== 0) {
    const { keep, once } = await loadContext();
    const base = {
      main: MAIN, isNew: count === 1, reseed, replaceRandom, enterDirectory, setEnvironment, restoreEnvironment,
      passOnEnvironment, setArguments, setClocks,
    };
    await (isOnce ? once(message, base) : keep(message, base));
    break;
  }
  reseed(head);
  if (env !== "") {
    if (!enterDirectory(env)) process.exit(1);
    setEnvironment(env);
    passOnEnvironment();
  }
  const print = mode === ONCE ? printer(code) : undefined;
  if (print) {
    print();
    process.exit(0);
  }
  writeFileSync(MAIN, code);
  // Reports to the agent that the program starts.
  closeSync(3);
  closeSync(4);
  closeSync(5);
  if (createsQueue(code)) process.nextTick;
  if (hasJsx(code)) loadAsJsx(code);
  break;
}
