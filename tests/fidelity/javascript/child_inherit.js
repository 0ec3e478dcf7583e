const { spawnSync } = require("child_process");
console.log("before");
spawnSync("sh", ["-c", "echo from the child; echo and its error >&2"], { stdio: "inherit" });
console.log("after");
