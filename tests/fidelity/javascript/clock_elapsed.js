const start = performance.now(), wall = Date.now();
await Bun.sleep(30);
const took = performance.now() - start;
console.log(took >= 28 && took < 5000, Math.abs(Date.now() - wall - took) < 100);
