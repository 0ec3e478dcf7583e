console.table([{ a: 1, b: "x" }, { a: 2, b: "y" }]);
console.table([[1, 2], [3, 4]]);
console.table("no table");
