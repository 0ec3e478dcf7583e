const { spawn } = require("child_process");
const child = spawn("sleep", ["60"]);
child.on("exit", (code, signal) => console.log(code, signal));
child.on("spawn", () => console.log(child.kill("SIGTERM"), child.killed));
