function f(x) {
  throw new TypeError("bad " + x);
}

console.log("before");
f(1);
console.log("never");
