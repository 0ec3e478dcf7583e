const { readFileSync } = require("fs");
Promise.resolve().then(() => console.log("promise"));
process.nextTick(() => console.log("tick"));
console.log("sync", readFileSync("/dev/null").length);
