try { null.x; } catch (error) { console.log("caught", error); }
console.error(new RangeError("made"));
