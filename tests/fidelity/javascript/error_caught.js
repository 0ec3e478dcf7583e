process.on("uncaughtException", (error, origin) => console.log("caught", error.message, origin));
setTimeout(() => { console.log("on"); }, 300);
setTimeout(() => { throw new Error("one"); }, 1);
