// Ticks come before promises in a module's first turn.
queueMicrotask(() => console.log("microtask"));
Promise.resolve().then(() => { console.log("promise"); process.nextTick(() => console.log("tick of a promise")); });
process.nextTick(() => {
  console.log("tick");
  Promise.resolve().then(() => console.log("promise of a tick"));
  process.nextTick(() => console.log("tick of a tick"));
});
console.log("sync");
