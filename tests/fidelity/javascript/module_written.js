const fs = require("fs");
fs.writeFileSync("lib.cjs", "exports.seven = 7; exports.isMain = require.main === module;");
fs.writeFileSync("lib.mjs", "export const eight = 8; export default import.meta.main;");
fs.writeFileSync("data.json", '{"list": [1, 2]}');
const lib = require("./lib.cjs");
console.log(lib.seven, lib.isMain, require("./lib.cjs") === lib, require("./data.json").list);
import("./lib.mjs").then((all) => {
  console.log(all.eight, all.default, Object.keys(all));
  for (const name of ["lib.cjs", "lib.mjs", "data.json"]) fs.rmSync(name);
});
