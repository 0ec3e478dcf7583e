let big = []; for (let i = 0; i < 20; i++) big = new Array(1e5).fill(i);
const ref = new WeakRef({}); Bun.gc(true);
console.log(big.length, typeof ref.deref, new FinalizationRegistry(() => {}) instanceof FinalizationRegistry);
