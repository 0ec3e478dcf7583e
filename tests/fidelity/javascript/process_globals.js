console.log(typeof process.pid, process.ppid > 0, process.platform, process.arch, process.version.startsWith("v"), process.versions.bun === Bun.version);
console.log(process.argv.length, process.execArgv, process.argv[1].startsWith(process.cwd()), process.title.length > 0);
console.log(typeof process.memoryUsage().rss, typeof process.cpuUsage().user, process.getuid() >= 0, process.umask() >= 0);
console.log(process.stdout.isTTY, process.stdin.isTTY, process.stdout.fd, process.stderr.fd, process.release.name);
console.log(typeof process.hrtime.bigint(), process.config !== undefined, process.exitCode, process.stdout.writable);
