// fidelity: args=--n 5 "two words" "" ünïcode
// fidelity: skip=context -- a context has no arguments
console.log(process.argv.slice(2), Bun.argv.length);
