const fs = require("fs");
console.log(fs.writeSync(1, "to one\n"), fs.writeSync(2, "to two\n"));
const fd = fs.openSync("/dev/null", "r"); console.log(fd > 2, fs.readSync(fd, Buffer.alloc(1))); fs.closeSync(fd);
try { fs.readSync(200, Buffer.alloc(1)); } catch (error) { console.log(error.code); }
