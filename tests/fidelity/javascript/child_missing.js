const { spawn } = require("child_process");
spawn("no-such-program").on("error", (error) => console.log(error.code, error.syscall, error.path));
try { Bun.spawnSync(["no-such-program"]); } catch (error) { console.log(error.code); }
