// Preloaded by bun before main.ts, which the agent fills with the program when it comes: bun then runs it
// as it runs any file. It may wait for long; what comes on descriptor 3 is described in interpreter.rs.
import { closeSync, readSync, writeSync } from "node:fs";

function receive(): { mode: string; seed: bigint; env: string[]; code: string } {
  let data = Buffer.alloc(0);
  const chunk = Buffer.allocUnsafeSlow(65536);
  const more = () => {
    const count = readSync(3, chunk, 0, chunk.length, null);
    // The agent is gone.
    if (count === 0) process.exit(0);
    data = Buffer.concat([data, chunk.subarray(0, count)]);
  };
  while (!data.includes(10)) more();
  const end = data.indexOf(10);
  const [mode, seed, env, code] = data.toString("latin1", 0, end).split(" ");
  const start = end + 1, middle = start + Number(env);
  while (data.length < middle + Number(code)) more();
  return {
    mode, seed: BigInt(seed),
    env: data.toString("utf8", start, middle).split("\0").filter(Boolean),
    code: data.toString("utf8", middle),
  };
}

// Math.random's state cannot be set, and may have been copied to other VMs: xoshiro128** takes its place.
function reseed(seed: bigint): void {
  let [a, b, c, d] = [0n, 32n, 64n, 96n].map((shift) => Number((seed >> shift) & 0xffffffffn) | 0);
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
    process.env[pair.slice(0, at)] = pair.slice(at + 1);
  }
}

const AsyncFunction = (async () => {}).constructor as new (code: string) => () => Promise<void>;

for (;;) {
  const { mode, seed, env, code } = receive();
  if (mode === "o") {
    if (seed) reseed(seed);
    setEnvironment(env);
    // This tells the agent that the program begins.
    closeSync(3);
    break;
  }
  const before = { ...process.env };
  setEnvironment(env);
  let status = 0;
  try {
    const transpiler = new Bun.Transpiler({ loader: "ts", target: "bun" });
    await new AsyncFunction(transpiler.transformSync(code))();
  } catch (error) {
    console.error(error);
    status = 1;
  }
  for (const pair of env) {
    const name = pair.slice(0, pair.indexOf("="));
    if (before[name] === undefined) delete process.env[name];
    else process.env[name] = before[name];
  }
  // Output is written at the end of a turn.
  await new Promise((resolve) => setTimeout(resolve, 0));
  writeSync(3, `${status}\n`);
}
