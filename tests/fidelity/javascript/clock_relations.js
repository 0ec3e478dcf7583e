const wall = Date.now();
console.log(Math.abs(performance.timeOrigin + performance.now() - wall) < 1000, performance.now() < 60000, performance.now() >= 0);
console.log(process.uptime() < 60, Math.abs(process.uptime() * 1000 - performance.now()) < 1000, Bun.nanoseconds() / 1e9 < 60);
const [s, n] = process.hrtime(), later = process.hrtime([s, n]);
console.log(later[0] === 0, Number.isInteger(n), process.hrtime.bigint() > 0n);
performance.mark("a"); performance.mark("b");
const measure = performance.measure("m", "a", "b");
console.log(measure.duration >= 0, measure.startTime <= performance.now(), performance.getEntriesByType("mark").length);
console.log(Math.abs(new Date().getTime() - wall) < 5000, Math.abs(Number(require("child_process").execSync("date +%s")) - wall / 1000) < 5);
