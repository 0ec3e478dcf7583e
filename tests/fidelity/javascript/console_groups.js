console.group("outer");
console.log("a");
console.group();
console.warn("b\nc");
console.groupEnd();
console.info("d");
console.groupEnd();
console.log("e");
