// fidelity: skip=context -- an exec does not end its process
process.on("exit", () => { console.log("listener"); process.exitCode = 9; });
setTimeout(() => console.log("never"), 1000);
process.exit(4);
