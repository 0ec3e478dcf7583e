// fidelity: skip=context,display -- their code is sloppy, so that it can be declared again
export {};
console.log(this, (function () { return this; })());
try { undeclared = 1; } catch (error) { console.log(error.name); }
console.log(typeof require, typeof exports);
