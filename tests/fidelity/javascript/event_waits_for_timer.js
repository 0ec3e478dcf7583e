setTimeout(() => setTimeout(() => console.log("inner"), 20), 20);
console.log("outer");
