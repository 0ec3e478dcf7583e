// fidelity: args=--n 5 "two words" "" ümlaut
// fidelity: skip=context -- a context has no arguments
const { parseArgs } = require("util");
console.log(process.argv.slice(2), Bun.argv.slice(2));
const { values, positionals } = parseArgs({ args: process.argv.slice(2), options: { n: { type: "string" } }, allowPositionals: true });
console.log(values.n, positionals);
