const fs = require("fs"), os = require("os"), path = require("path");
const directory = fs.mkdtempSync(path.join(os.tmpdir(), "fidelity-"));
const file = path.join(directory, "a.txt");
fs.writeFileSync(file, "one\n"); fs.appendFileSync(file, "two\n");
console.log(fs.readFileSync(file, "utf8").split("\n"), fs.statSync(file).size, (fs.statSync(file).mode & 0o777).toString(8));
console.log(Math.abs(fs.statSync(file).mtimeMs - Date.now()) < 5000, fs.readdirSync(directory), os.tmpdir());
try { fs.readFileSync(path.join(directory, "none")); } catch (error) { console.log(error.code, error.errno, error.syscall); }
console.log(await Bun.file(file).text(), await Bun.file(file + "x").exists());
fs.rmSync(directory, { recursive: true });
