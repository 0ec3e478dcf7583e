// fidelity: stdin=héllo\n
const { readFileSync } = require("fs");
console.log(JSON.stringify(readFileSync(0, "utf8")), readFileSync(0).length);
