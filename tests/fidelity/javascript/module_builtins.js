import fs, { existsSync } from "node:fs";
import * as path from "path";
import { createRequire, builtinModules } from "module";
console.log(fs.existsSync === existsSync, path.join("a", "..", "b"), builtinModules.includes("fs"));
const require = createRequire(import.meta.url);
console.log(require("fs") === fs, require.resolve("fs"));
try { require("not-installed"); } catch (error) { console.log(error.code, error.message.split("\n")[0].startsWith("Cannot find")); }
