const { exec, execSync, execFileSync, spawnSync } = require("child_process");
console.log(execSync("echo one; echo two >&2", { stdio: ["ignore", "pipe", "ignore"] }).toString().trim());
console.log(execFileSync("cat", { input: "given" }).toString());
const { status, stderr } = spawnSync("sh", ["-c", "echo bad >&2; exit 3"]);
console.log(status, stderr.toString().trim());
try { execSync("exit 5", { stdio: "pipe" }); } catch (error) { console.log(error.status); }
exec("echo $X", { env: { X: "x" } }, (error, stdout) => console.log(error, stdout));
