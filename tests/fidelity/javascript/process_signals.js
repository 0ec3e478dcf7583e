process.on("SIGUSR2", (name, number) => { console.log(name, number); process.exit(3); });
setTimeout(() => {}, 5000);
process.kill(process.pid, "SIGUSR2");
