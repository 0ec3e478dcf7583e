process.on("exit", (code) => console.log("exit", code));
process.exitCode = 3;
console.log("leaving");
