// fidelity: skip=context -- a context has its own names for code
const value: { name?: { text: string } } = {};
console.log("before");
console.log(value.name!.text);
