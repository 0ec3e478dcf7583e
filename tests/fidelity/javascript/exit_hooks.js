// fidelity: skip=context -- an exec does not end its process
process.on("exit", (code) => console.log("exit", code, process.exitCode));
process.on("beforeExit", (code) => console.log("before exit", code));
process.exitCode = 3;
console.log("end");
