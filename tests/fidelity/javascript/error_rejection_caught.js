process.on("unhandledRejection", (reason) => console.log("unhandled", reason.message));
Promise.reject(new Error("one"));
setTimeout(() => console.log("on"), 300);
