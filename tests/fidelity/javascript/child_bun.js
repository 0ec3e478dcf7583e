const child = Bun.spawn(["sh", "-c", "cat; exit 4"], { stdin: new Blob(["typed"]), stdout: "pipe" });
console.log(await new Response(child.stdout).text(), await child.exited);
console.log((await Bun.$`echo ${"a b"} | wc -w`.text()).trim());
