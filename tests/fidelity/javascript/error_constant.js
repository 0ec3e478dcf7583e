const x = 1;
console.log("never");
x = 2;
