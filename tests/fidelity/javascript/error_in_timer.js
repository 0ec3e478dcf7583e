setTimeout(() => { throw new RangeError("later"); }, 5);
setTimeout(() => console.log("never"), 500);
