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

for (let count = 1; ; count++) {
  const { mode, seed, env, code } = receive();
  if (mode === "o") {
    if (seed.some((part) => part !== 0)) reseed(seed);
    setEnvironment(env);
    if (env.length > 0) passOnEnvironment();
    // This tells the agent that the program begins.
    closeSync(3);
    closeSync(4);
    break;
  }
  // What only the last message does is compiled now, and not when it comes.
  reseed([1, 1, 1, 1]);
  const before = { ...process.env };
  setEnvironment(env);
  let status = 0;
  // From a file, as a program is: what loads one is in memory then.
  const file = `${tmpdir()}/prepare-${process.pid}-${count}.ts`;
  try {
    writeFileSync(file, code);
    await import(file);
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
  writeSync(4, `${status}\n`);
}
