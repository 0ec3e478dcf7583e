// fidelity: args=--n 5 "two words" "" ünïcode
console.log(process.argv.slice(2), Bun.argv.length);
