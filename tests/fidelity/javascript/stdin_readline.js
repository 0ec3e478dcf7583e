// fidelity: stdin=a\nb\nc
const readline = require("readline").createInterface({ input: process.stdin });
readline.on("line", (line) => console.log("line", line));
readline.on("close", () => console.log("close"));
