const value: unknown = "text";
const length = (value as string).length, same = <string>value;
let later!: number; later = 5;
const maybe: { x?: { y: number } } = {};
console.log(length, same, later, maybe.x?.y, maybe!.x, (value as any as number));
function assert(x: unknown): asserts x { if (!x) throw new Error("assertion"); }
assert(true); console.log("asserted");
