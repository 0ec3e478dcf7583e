if (import.meta.main) console.log("main");
console.log(import.meta.dir === process.cwd(), import.meta.path === import.meta.filename, import.meta.url.startsWith("file:///"));
console.log(import.meta.dirname === import.meta.dir, typeof import.meta.resolve, typeof import.meta.require);
