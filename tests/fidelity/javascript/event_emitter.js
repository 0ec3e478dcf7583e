const { EventEmitter, once } = require("events");
const emitter = new EventEmitter();
emitter.on("a", (n) => console.log("listener", n));
emitter.prependListener("a", (n) => console.log("first", n));
emitter.once("a", () => console.log("once"));
console.log(emitter.emit("a", 1), emitter.emit("a", 2), emitter.emit("b"));
setTimeout(() => emitter.emit("later", 3), 5);
once(emitter, "later").then(([n]) => console.log("later", n));
