const LEVELS = ["debug", "info", "error"] as const;
type Level = (typeof LEVELS)[number];
const rank: Record<Level, number> = { debug: 0, info: 1, error: 2 };
for (const level of LEVELS) console.log(level.padEnd(6), rank[level satisfies Level]);
