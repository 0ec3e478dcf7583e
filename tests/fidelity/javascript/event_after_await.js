// fidelity: skip=display -- the code is evaluated, not loaded: its first turn is that of an immediate
process.nextTick(() => console.log("first tick"));
await 1;
console.log("after await");
process.nextTick(() => console.log("tick"));
Promise.resolve().then(() => console.log("promise"));
await null;
console.log("end");
