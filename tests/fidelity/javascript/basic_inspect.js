class Point {
  constructor(x) {
    this.x = x;
  }
}
console.log(new Point(1), [1, , 3], { a: { b: { c: { d: 1 } } } }, new Map([[1, "x"]]), null, undefined, 10n);
console.log("%s is %d", "x", 7, -0, [NaN]);
