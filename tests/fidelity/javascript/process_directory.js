const home = process.cwd();
process.chdir("/tmp");
console.log(process.cwd(), require("path").resolve("x"), require("child_process").execSync("pwd").toString().trim());
try { process.chdir("/no/such"); } catch (error) { console.log(error.code, error.syscall); }
process.chdir(home);
console.log(process.cwd() === home);
