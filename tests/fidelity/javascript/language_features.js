label: for (let i = 0; i < 3; i++) for (let j = 0; j < 3; j++) { if (j === 2) continue label; if (i === 2) break label; console.log(i, j); }
const { a, ...rest } = { a: 1, b: 2, c: 3 }; console.log(a, rest, rest?.b ?? 0, rest.d?.e);
function* count() { const got = yield 1; console.log("got", got); yield* [2, 3]; }
const it = count(); console.log(it.next(), it.next("x"), [...it]);
console.log([3, 1, 2].toSorted(), Object.groupBy([1, 2, 3], (n) => (n % 2 ? "odd" : "even")), 2n ** 70n, "abc".at(-1));
class A { static #n = 0; static { A.#n = 5; } get n() { return A.#n; } }
console.log(new A().n, `${1 + 1}`, String.raw`\n`, typeof structuredClone(new Map([[1, 2]])), 0.1 + 0.2);
console.log("2024-01-02".match(/(?<y>\d+)-(?<m>\d+)/).groups.m, [..."a1b2".matchAll(/\d/g)].map((m) => m.index), "aXbX".replaceAll("X", "-"));
