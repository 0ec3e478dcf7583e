// Bun preloads this before main.ts, an empty file. A program that arrives is written to main.ts, and bun runs it as
// any file; or it runs here, if that makes no difference. It may wait for a long time. interpreter.rs describes the
// messages on descriptor 3 and the control messages on descriptor 4.
import { closeSync, readSync, rmSync, writeFileSync, writeSync } from "node:fs";
import { tmpdir } from "node:os";

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

function reseed(head: Buffer): void {
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
}

// By default, Bun.spawn passes on the environment that bun was started with.
function passOnEnvironment(): void {
  const options = (given: any) => ({ ...given, env: given?.env ?? process.env });
  for (const name of ["spawn", "spawnSync"] as const) {
    const native = Bun[name] as any;
    const passing = {
      [name]: (first: any, second?: any) =>
        Array.isArray(first) ? native(first, options(second)) : native(options(first)),
    };
    (Bun as any)[name] = passing[name];
  }
}

// Runs a program as bun runs a module: strict, with top-level `await`, and with the same line numbers. Code
// that is not JavaScript is a SyntaxError here.
const MAIN = process.argv[1];
const HEAD = '(async function(){"use strict";';
const compile = (code: string): (() => Promise<void>) =>
  (0, eval)(`${HEAD}${code}\n})\n//# sourceURL=${MAIN}`);

// Syntax of modules, syntax that differs between scripts and modules, and names related to the file or to the
// listeners below. If one occurs, even only in a string, the program runs as a file.
const OF_FILES =
  /import|export|require|module|__dirname|__filename|arguments|<!--|-->|main\.ts|uncaughtException|unhandledRejection|CaptureCallback|removeAllListeners/;
// After a `<`: a call in TypeScript, comparisons in JavaScript.
const GENERIC_CALL = />\s*[(`]/;

// Returns the program as a function, if that makes no difference: bun's loader takes longer than most programs.
function asFunction(code: string): (() => Promise<void>) | undefined {
  if (OF_FILES.test(code)) return undefined;
  const less = code.indexOf("<");
  if (less >= 0 && GENERIC_CALL.test(code.slice(less))) return undefined;
  try {
    return compile(code);
  } catch {
    return undefined;
  }
}

// The code of a program that runs as a function, and whether its top level has finished.
let running = "", isOver = false;
// Listeners for its end. They are added before it arrives, and removed for a program that runs as a file.
const ENDS: [string, (error: unknown) => void][] = [
  ["uncaughtException", failed],
  ["unhandledRejection", failed],
  ["beforeExit", () => {
    if (isOver) return;
    isOver = true;
    writeSync(2, "the program's top level waits for a promise that is never settled\n");
    process.exitCode ??= 13;
  }],
];

function ended(): void {
  isOver = true;
}

function failed(error: unknown): void {
  isOver = true;
  writeSync(2, `${described(error, running)}\n\nBun v${Bun.version} (Linux ${process.arch})\n`);
  process.exit(1);
}

// Formats an error as bun shows an uncaught one: with the lines of code that it refers to.
function described(error: unknown, code: string): string {
  if (!(error instanceof Error)) {
    return typeof error === "string" ? `error: ${error}\n${error}` : `error\n${Bun.inspect(error)}`;
  }
  const isFrame = (line: string) => /^ *\d+ \| /.test(line) || /^ *\^$/.test(line);
  const here = new RegExp(`${MAIN.replace(/[.*+?^${}()|[\]\\]/g, "\\$&")}:(\\d+):(\\d+)`);
  const column = (row: number, at: number) => (row === 1 ? at - HEAD.length : at);
  // Remove the runner's call, and the text before the program's first line.
  let lines = Bun.inspect(error).split("\n").filter((line) => !line.includes(import.meta.path));
  lines = lines.map((line, n) => {
    if (/^ *\^$/.test(line) && lines[n - 1]?.includes(HEAD)) return line.slice(HEAD.length);
    return line.replace(here, (_, row, at) => `${MAIN}:${row}:${column(Number(row), Number(at))}`);
  });
  lines = lines.map((line) => (isFrame(line) ? line.replace(HEAD, "") : line));
  // For code that is not in a file, bun shows the wrong lines before the first error.
  while (lines.length > 0 && isFrame(lines[0])) lines.shift();
  const last = lines.findLastIndex((line) => here.test(line));
  if (last >= 0) lines[last] = lines[last].replace(/at (async )?<anonymous> \((.*)\)$/, "at $1$2");
  const place = lines.find((line) => here.test(line))?.match(here);
  if (place) {
    const [row, at] = [Number(place[1]), Number(place[2])];
    const from = Math.max(1, row - 5), width = String(row).length;
    const shown = code.split("\n").slice(from - 1, row);
    const numbered = shown.map((line, n) => `${String(from + n).padStart(width)} | ${line}`);
    lines.unshift(...numbered, " ".repeat(width + 2 + Math.max(1, at)) + "^");
  }
  return lines.join("\n").trimEnd();
}

function restoreEnvironment(pairs: string, before: Record<string, string | undefined>): void {
  for (const pair of pairs.split("\0")) {
    const name = pair.slice(0, Math.max(0, pair.indexOf("=")));
    if (!name) continue;
    if (before[name] === undefined) delete process.env[name];
    else process.env[name] = before[name];
  }
}

// The modes of messages: a program with which bun ends, one that must run as a file, and a preparation. Any other mode
// is a context.
const ONCE = "o".charCodeAt(0), FILE = "f".charCodeAt(0), PREPARE = "p".charCodeAt(0);

for (let count = 1; ; count++) {
  const message = receive();
  const { mode, head, env, code } = message;
  // The lowest flag requests that values are displayed.
  const isPlain = (head[1] & 1) === 0;
  if (isPlain && (mode === ONCE || mode === FILE)) {
    reseed(head);
    if (env !== "") {
      if (!enterDirectory(env)) process.exit(1);
      setEnvironment(env);
      passOnEnvironment();
    }
    const program = count > 1 && mode === ONCE ? asFunction(code) : undefined;
    if (program) {
      // Bun continues with the empty file meanwhile, and exits when nothing is left to do.
      running = code;
      program.call({}).then(ended, failed);
    } else {
      for (const [name, listener] of ENDS) process.off(name, listener);
      writeFileSync(MAIN, code);
      // Reports to the agent that the program starts.
      closeSync(3);
      closeSync(4);
      closeSync(5);
    }
    break;
  }
  if (mode !== PREPARE) {
    for (const [name, listener] of ENDS) process.off(name, listener);
    const { keep, once } = await import(`${import.meta.dir}/context.ts`);
    const base = {
      main: MAIN, isNew: count === 1, reseed, replaceRandom, enterDirectory, setEnvironment, restoreEnvironment,
      passOnEnvironment, setArguments,
    };
    if (mode === ONCE || mode === FILE) {
      once(message, base);
      break;
    }
    await keep(message, base);
  }
  reseed(head);
  const before = { ...process.env }, at = process.cwd();
  let status = enterDirectory(env) ? 0 : 1;
  setEnvironment(env);
  // Run it in all ways in which programs run, so that the code for them is in memory.
  const file = `${tmpdir()}/prepare-${process.pid}-${count}.ts`;
  if (status === 0) try {
    writeFileSync(file, code);
    await import(file);
    await asFunction("['ready', 1].join()")!();
    const { prime } = await import(`${import.meta.dir}/context.ts`);
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
    for (const [name, listener] of ENDS) process.on(name, listener);
  }
  // Otherwise the collector would run beside the next program.
  Bun.gc(true);
  writeSync(4, `${status}\n`);
}
