import { readFileSync } from "node:fs";
import type { Stats } from "node:fs";
import * as path from "node:path";

const size = (stats: Pick<Stats, "size">): number => stats.size;
console.log(size({ size: 3 }), path.basename("/a/b.txt"), typeof readFileSync);
