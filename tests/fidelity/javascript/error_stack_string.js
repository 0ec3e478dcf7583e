function inner() { return new Error("told").stack + ""; }
function outer() { return inner() + ""; }
const lines = outer().split("\n");
console.log(lines[0], lines[1].trim().split(" ").slice(0, 2).join(" "), lines[2].trim().split(" ").slice(0, 2).join(" "));
