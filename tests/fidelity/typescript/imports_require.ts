import fs = require("fs");
import path from "path";
console.log(typeof fs.readFileSync, path.basename("/a/b.ts", ".ts"));
