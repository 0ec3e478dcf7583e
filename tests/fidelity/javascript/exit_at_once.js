// fidelity: skip=context -- what has been started goes on, since the process does
setTimeout(() => console.log("never"), 1);
Promise.resolve().then(() => console.log("never"));
process.stdout.write("no newline");
process.exit(5);
