const { spawn } = require("child_process");
const child = spawn("tr", ["a-z", "A-Z"]);
let out = "";
child.stdout.on("data", (piece) => (out += piece));
child.on("close", (code) => console.log(code, out.trim()));
child.stdin.write("some ");
child.stdin.end("text\n");
