// fidelity: skip=context,display -- their code is in no file
import { readFileSync } from "fs";
console.log(readFileSync(import.meta.path, "utf8").includes("a word of mine"));
console.log(process.argv[1] === import.meta.path, Bun.main === import.meta.path);
