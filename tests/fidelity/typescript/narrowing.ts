type Shape = { kind: "circle"; r: number } | { kind: "square"; side: number };
const area = (s: Shape): number => { switch (s.kind) { case "circle": return 3 * s.r ** 2; case "square": return s.side ** 2; default: { const never: never = s; return never; } } };
function isString(x: unknown): x is string { return typeof x === "string"; }
console.log(area({ kind: "circle", r: 2 }), area({ kind: "square", side: 2 }), ["a", 1].filter(isString));
