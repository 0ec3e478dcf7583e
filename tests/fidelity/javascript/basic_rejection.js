// fidelity: skip=context -- a context has its own names for code
console.log("before");
Promise.reject(new RangeError("late"));
