const o = { a: null };
console.log("a");
o.a.b;
