// fidelity: skip=context -- what has been started goes on, since the process does
setTimeout(() => console.log("never"), 800);
await Promise.resolve();
console.log("before");
setTimeout(() => process.exit(6), 5);
