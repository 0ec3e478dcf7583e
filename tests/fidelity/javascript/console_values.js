console.log([1, "two", [3, [4, [5, [6]]]]], { a: { b: { c: { d: 1 } } } });
console.log(new Map([["k", { v: 1 }]]), new Set([1, "a"]), new Date(0), /re/g, new Uint8Array(3), Buffer.from("hi"));
console.log(class A {}, function named() {}, () => {}, async () => {}, function* g() {});
console.log(Promise.resolve(5), new WeakMap(), Object.create(null), new (class Point { x = 1; #y = 2 })());
const loop = { name: "loop" }; loop.self = loop;
console.log(loop, new Array(3), [ , 1], "x".repeat(3), [undefined, null]);
