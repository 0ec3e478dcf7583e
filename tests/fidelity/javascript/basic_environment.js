const hidden = new Set(["_", "SHLVL", "OLDPWD"]);
for (const name of Object.keys(process.env).sort()) {
  if (!hidden.has(name)) console.log(name, "=", process.env[name]);
}
console.log(process.cwd());
