console.count(); console.count("a"); console.count(); console.countReset(); console.count();
console.assert(true, "never"); console.assert(false, "asserted %d", 5); console.assert(false);
console.dir({ a: { b: { c: {} } } }, { depth: 0 });
console.debug("debug"); console.info("info"); console.warn("warn"); console.error("error");
