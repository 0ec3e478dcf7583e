function f() { console.trace("in %s", "f"); }
console.trace("here", { a: 1 });
f();
