console.log(process.env.NODE_ENV, process.env.NOPE, "HOME" in process.env, typeof process.env.PATH);
process.env.A = 5; console.log(process.env.A, typeof process.env.A, Bun.env.A);
console.log(require("child_process").execSync('printf "$A"').toString(), Bun.spawnSync(["sh", "-c", 'printf "$A"']).stdout.toString());
delete process.env.A; console.log(process.env.A, "A" in process.env);
