import type { Stats } from "node:fs";
import { type Dirent, statSync } from "node:fs";
const stats: Stats = statSync("/");
const none: Dirent[] = [];
console.log(stats.isDirectory(), none.length);
export type { Stats };
