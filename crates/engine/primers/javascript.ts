// Run in the interpreter that a template keeps warm, and again in each VM that is kept hot. It must
// leave nothing behind, and draw no randomness that would be kept.
interface Point { x: number; y?: number }
class Stack<T> {
  private items: T[] = [];
  push(item: T): this { this.items.push(item); return this; }
  get size(): number { return this.items.length; }
  *[Symbol.iterator]() { yield* this.items; }
}
const fibonacci = (n: number): number => (n < 2 ? n : fibonacci(n - 1) + fibonacci(n - 2));
async function work(): Promise<string[]> {
  const words = "the quick brown fox jumps over the lazy dog".split(" ");
  const counts = new Map<number, number>();
  for (const word of words) counts.set(word.length, (counts.get(word.length) ?? 0) + 1);
  const point: Point = { x: 1, ...{ y: 2 } };
  const { x, y = 3 } = point;
  const sorted = [...words].sort((a, b) => a.length - b.length || a.localeCompare(b));
  const data = JSON.parse(JSON.stringify({ a: [1, 2.5, null, true], b: { c: sorted } }, null, 1));
  const matches = [..."ann@example.com, bob@test.com".matchAll(/(\w+)@(\w+)\.com/g)].map((m) => m[1]);
  let total = 0;
  for (let i = 0; i < 50; i++) total += i % 3 === 0 ? i : -1;
  let caught = "";
  try { throw new TypeError("told"); } catch (error) { caught = String(error); } finally { total++; }
  const all = await Promise.all([1, 2, 3].map(async (n) => n * 2));
  await new Promise((resolve) => setTimeout(resolve, 0));
  const stack = new Stack<string>().push("a").push("b");
  const bytes = new TextEncoder().encode("ä"), text = new TextDecoder().decode(bytes);
  const date = new Date(0).toISOString(), padded = total.toFixed(2).padStart(8, "0");
  return [`${x}${y} ${data.b.c[0]} ${matches} ${caught} ${all} ${[...stack]} ${stack.size} ${text} ${date} ${padded}`,
    String(fibonacci(12)), [...counts.entries()].map(([k, v]) => `${k}:${v}`).join(), new Set(words).size.toString(),
    Object.entries(point).flat().join(), words.reduce((a, w) => a + w.length, 0).toString(16), Buffer.from("hi").toString("base64")];
}
for (const line of await work()) console.log(line);
console.log({ nested: { list: [1, "two", null] } }, [1, 2, 3], new Map([["k", 1]]), "ready", 1 + 1);
