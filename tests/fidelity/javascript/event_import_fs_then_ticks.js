// fidelity: skip=context,display -- the code is evaluated, not loaded: imports are part of its first turn
import { readFileSync } from "node:fs";
Promise.resolve().then(() => console.log("promise"));
process.nextTick(() => console.log("tick"));
console.log("sync", readFileSync("/dev/null").length);
