// Preloaded by bun before main.ts, which the agent fills with the program when it comes: bun then runs it
// as it runs any file. It may wait for long; what comes on descriptor 3 and goes out
// on descriptor 4 is described in interpreter.rs.
import { closeSync, readSync, unlinkSync, writeFileSync, writeSync } from "node:fs";
import { tmpdir } from "node:os";

const chunk = Buffer.allocUnsafeSlow(65536);

function receive(): { mode: string; seed: number[]; env: string[]; code: string } {
  let data = chunk, length = 0, middle = 0, end = 25;
  while (length < end) {
    if (length === data.length) data = Buffer.concat([data], data.length * 2);
    const count = readSync(3, data, length, data.length - length, null);
    // The agent is gone.
    if (count === 0) process.exit(0);
    length += count;
    if (middle === 0 && length >= 25) {
      middle = 25 + data.readUInt32BE(17);
      end = middle + data.readUInt32BE(21);
    }
  }
  const seed = [1, 5, 9, 13].map((at) => data.readInt32BE(at));
  const env = middle > 25 ? data.toString("utf8", 25, middle).split("\0") : [];
  return { mode: String.fromCharCode(data[0]), seed, env, code: data.toString("utf8", middle, end) };
}

// Math.random's state cannot be set, and may have been copied to other VMs: xoshiro128** takes its place.
function reseed([a, b, c, d]: number[]): void {
  const next = () => {
    const scrambled = Math.imul(b, 5);
    const result = Math.imul((scrambled << 7) | (scrambled >>> 25), 9) >>> 0;
    const shifted = b << 9;
    c ^= a; d ^= b; b ^= c; a ^= d; c ^= shifted;
    d = (d << 11) | (d >>> 21);
    return result;
  };
  const { random } = { random: () => (next() >>> 5) * 2 ** -27 + (next() >>> 6) * 2 ** -53 };
  Object.defineProperty(Math, "random", { value: random, writable: true, configurable: true, enumerable: false });
}

function setEnvironment(pairs: string[]): void {
  for (const pair of pairs) {
    const at = pair.indexOf("=");
    if (at > 0) process.env[pair.slice(0, at)] = pair.slice(at + 1);
  }
}

// What Bun.spawn passes on by itself is the environment that bun was started with.
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

// Calls a program as bun runs a module: strict, with `await` at its top, its first line the first line. What
// is only then found to be no JavaScript is a SyntaxError, before any of it has run.
const MAIN = process.argv[1];
const HEAD = '(async function(){"use strict";';
const compile = (code: string): (() => Promise<void>) =>
  (0, eval)(`${HEAD}${code}\n})\n//# sourceURL=${MAIN}`);

// Words of programs that are a module's, or what JavaScript and TypeScript, scripts and modules read in
// different ways. Where one stands only in a string, the program is a file all the same.
const OF_FILES = ["import", "export", "require", "module", "__dirname", "__filename", "arguments", "<!--", "-->"];
const GENERIC_CALLS = [">(", "> (", ">`", ">\n"];

// The program as a function, where that is the same: bun's loader takes longer than most programs.
function asFunction(code: string): (() => Promise<void>) | undefined {
  if (OF_FILES.some((word) => code.includes(word))) return undefined;
  if (code.includes("<") && GENERIC_CALLS.some((end) => code.includes(end))) return undefined;
  try {
    return compile(code);
  } catch {
    return undefined;
  }
}

// Ends a program by its own error, as bun does, with the lines of the code that the error names.
function fail(error: unknown, code: string): void {
  if (["uncaughtException", "unhandledRejection"].some((name) => process.listenerCount(name) > 0)) {
    Promise.reject(error);
    return;
  }
  let lines = (error instanceof Error ? Bun.inspect(error) : `error: ${Bun.inspect(error)}`).split("\n");
  const isFrame = (line: string) => /^ *\d+ \| /.test(line) || /^ *\^$/.test(line);
  while (lines.length > 0 && isFrame(lines[0])) lines.shift();
  // The runner's own call is not the program's.
  lines = lines.filter((line) => !line.includes(import.meta.path));
  const here = new RegExp(`${MAIN.replace(/[.*+?^${}()|[\]\\]/g, "\\$&")}:(\\d+):(\\d+)`);
  const column = (row: number, at: number) => (row === 1 ? at - HEAD.length : at);
  lines = lines.map((line) => line.replace(here, (_, row, at) => `${MAIN}:${row}:${column(Number(row), Number(at))}`));
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
  writeSync(2, `${lines.join("\n").trimEnd()}\n\nBun v${Bun.version} (Linux ${process.arch})\n`);
  process.exit(1);
}

for (let count = 1; ; count++) {
  const { mode, seed, env, code } = receive();
  if (mode === "o") {
    if (seed.some((part) => part !== 0)) reseed(seed);
    setEnvironment(env);
    if (env.length > 0) passOnEnvironment();
    const program = count > 1 ? asFunction(code) : undefined;
    if (program) {
      // Bun goes on with the empty file meanwhile, and ends when nothing is left to do.
      program().catch((error) => fail(error, code));
    } else {
      writeFileSync(MAIN, code);
      // This tells the agent that the program begins.
      closeSync(3);
      closeSync(4);
    }
    break;
  }
  // What only the last message does is compiled now, and not when it comes.
  reseed([1, 1, 1, 1]);
  const before = { ...process.env };
  setEnvironment(env);
  let status = 0;
  // In both ways that a program is run: what that takes is in memory then.
  const file = `${tmpdir()}/prepare-${process.pid}-${count}.ts`;
  try {
    writeFileSync(file, code);
    await import(file);
    await asFunction("console.log('ready', 1)")!();
  } catch (error) {
    console.error(error);
    status = 1;
  } finally {
    unlinkSync(file);
  }
  for (const pair of env) {
    const name = pair.slice(0, Math.max(0, pair.indexOf("=")));
    if (!name) continue;
    if (before[name] === undefined) delete process.env[name];
    else process.env[name] = before[name];
  }
  // Output is written at the end of a turn.
  await new Promise((resolve) => setTimeout(resolve, 0));
  // Else the collector would begin to work beside the next program.
  Bun.gc(true);
  writeSync(4, `${status}\n`);
}
