// fidelity: skip=context -- a context has its own names for code
function fail(name) {
  throw new TypeError(`no ${name}`);
}

console.log("before");
fail("thing");
