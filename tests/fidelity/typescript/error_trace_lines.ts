type Unused = { a: number; b: string };
interface AlsoUnused {
  x: number;
}
function inner(): never {
  throw new RangeError("at line seven");
}
const outer = (): void => {
  inner();
};
outer();
