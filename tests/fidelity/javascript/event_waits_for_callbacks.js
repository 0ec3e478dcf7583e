const fs = require("fs");
fs.stat("/", (error, stats) => {
  console.log(error, stats.isDirectory());
  fs.readdir("/proc/self/task", (error, names) => console.log(error, names.length > 0));
});
