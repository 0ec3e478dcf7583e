// fidelity: args=-v --name=Ann "a b"
// fidelity: skip=context -- a context has no arguments
const given: string[] = process.argv.slice(2);
console.log(given, given.find((text) => text.startsWith("--name"))?.split("=")[1]);
