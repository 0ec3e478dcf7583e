// fidelity: stdin=Ann\n
const readline = require("readline/promises").createInterface({ input: process.stdin, output: process.stdout });
const name = await readline.question("name? ");
console.log(`hello ${name}`);
readline.close();
