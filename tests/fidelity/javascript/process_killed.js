// fidelity: skip=context -- the context's process would end
console.log("before");
process.kill(process.pid, "SIGKILL");
setTimeout(() => console.log("never"), 1000);
