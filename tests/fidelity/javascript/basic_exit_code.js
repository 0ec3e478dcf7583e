// fidelity: skip=context -- the interpreter of a context does not exit
process.on("exit", (code) => console.log("exit", code));
process.exitCode = 3;
console.log("leaving");
