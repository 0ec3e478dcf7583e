async function one() { console.log("one"); await two(); console.log("one again"); }
async function two() { console.log("two"); await null; console.log("two again"); }
one().then(() => console.log("done"));
Promise.resolve().then(() => console.log("a")).then(() => console.log("b")).then(() => console.log("c"));
console.log("sync");
